"""REINFORCE: its returns at every kind of end, with and without a baseline, and a run that learns."""

import math

import pytest
import torch
from control_loop import train
from told import Told, roles, told

from troupe.config import parse
from troupe_learners.algorithms import Batch, Totals
from troupe_learners.reinforce import Algorithm, Config

RETURN = [1 + 0.9 * (2 + 0.9 * (3 + 0.9 * 2.0)), 2 + 0.9 * (3 + 0.9 * 2.0), 3 + 0.9 * 2.0]
RETURN += [4.0]
RETURN += [5 + 0.9 * (6 + 0.9 * 1.5), 6 + 0.9 * 1.5]
"""With a discount of 0.9: truncated in a state worth 2, terminated, cut in a state worth 1.5."""
VALUE = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@torch.no_grad()
def begun(algorithm: Algorithm, batch: Batch, policy: Told) -> Batch:
    return algorithm.prepare(batch, roles(policy))


def prepared(**options: object) -> Batch:
    return begun(Algorithm(parse(Config, {"gamma": 0.9, **options})), told(), Told())


def test_returns_go_on_behind_all_ends_but_termination() -> None:
    got = prepared(normalise=False).step
    assert got["target"].tolist() == pytest.approx(RETURN)
    advantage = [g - v for g, v in zip(RETURN, VALUE, strict=True)]
    assert got["advantage"].tolist() == pytest.approx(advantage)


def test_without_a_baseline_the_return_itself_is_followed() -> None:
    got = prepared(normalise=False, baseline=False).step
    assert got["advantage"].tolist() == pytest.approx(RETURN)


@pytest.mark.parametrize("baseline", [True, False])
def test_what_is_followed_is_normalised(baseline: bool) -> None:
    got = prepared(baseline=baseline).step
    raw = prepared(baseline=baseline, normalise=False).step["advantage"]
    assert got["advantage"].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert got["advantage"].std().item() == pytest.approx(1.0, abs=1e-5)
    assert got["advantage"].argsort().tolist() == raw.argsort().tolist()
    assert got["target"].tolist() == pytest.approx(RETURN)


def test_the_gradient_is_return_times_score() -> None:
    policy = Told()
    algorithm = Algorithm(Config(gamma=0.9, normalise=False, baseline=False, value_coefficient=0.0))
    logit = [0.4, -0.3, 0.2, 0.0, 1.0, -1.0]
    batch = begun(algorithm, told(logit=logit), policy)
    outputs = policy.evaluate(batch.evaluated(), algorithm.plan.groups[0].want)
    algorithm.loss("all", outputs, batch, Totals(6)).total.backward()
    score = [1 - 1 / (1 + math.exp(-x)) for x in logit]
    assert policy.shift.grad is not None
    assert policy.shift.grad.item() == pytest.approx(
        -sum(g * s for g, s in zip(RETURN, score, strict=True)) / 6
    )


def test_the_critic_is_trained_whether_or_not_it_is_the_baseline() -> None:
    for baseline in (True, False):
        policy = Told()
        algorithm = Algorithm(Config(baseline=baseline))
        batch = begun(algorithm, told(), policy)
        outputs = policy.evaluate(batch.evaluated(), algorithm.plan.groups[0].want)
        algorithm.loss("all", outputs, batch, Totals(6)).total.backward()
        assert policy.value.grad is not None
        assert policy.value.grad.item() < 0.0  # the returns are above the values


@pytest.mark.parametrize("baseline", [True, False])
def test_it_learns_cartpole(baseline: bool) -> None:
    options = {"name": "reinforce", "baseline": baseline}
    assert train("CartPole-v1", options, count=4, rollout=128, turns=300, enough=150.0) >= 150.0
