"""Actor-critic: its credit against golden numbers through its own path, and a run that learns."""

import math

import pytest
import torch
from control_loop import train
from gymnasium import spaces as gym
from told import Told, roles, told

from troupe.config import parse
from troupe.episodes import Ending
from troupe.errors import UserError
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Spaces, create
from troupe_learners import on_policy
from troupe_learners.actor_critic import Algorithm, Config, defaults
from troupe_learners.algorithms import Batch, Totals

LOG_RHO = [0.3, -0.5, 0.0, 0.7, -0.2, 0.1]


def prepared(batch: Batch, **options: object) -> Batch:
    return begun(Algorithm(parse(Config, options)), batch, Told())


@torch.no_grad()
def begun(algorithm: Algorithm, batch: Batch, policy: Told) -> Batch:
    return algorithm.prepare(batch, roles(policy))


def test_vtrace_is_the_golden_one() -> None:
    acted = [math.log(0.5) - rho for rho in LOG_RHO]
    batch = told(log_prob=acted, length=[6], ending=[Ending.CUT], final=[1.5])
    got = prepared(batch, gamma=0.9).step
    assert got["target"].tolist() == pytest.approx(
        [9.395942, 9.328824, 14.434887, 12.70543, 9.6727, 7.35], abs=1e-5
    )
    assert got["advantage"].tolist() == pytest.approx(
        [8.895942, 8.728824, 13.734887, 11.90543, 8.7727, 6.35], abs=1e-5
    )


def test_without_correction_it_is_gae() -> None:
    got = prepared(told(), correction="none", gamma=0.9, gae_lambda=0.8).step
    advantage = [4.62704, 4.982, 4.1, 3.2, 9.572, 6.35]
    assert got["advantage"].tolist() == pytest.approx(advantage)
    values = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    targets = [a + v for a, v in zip(advantage, values, strict=True)]
    assert got["target"].tolist() == pytest.approx(targets)


def test_on_its_own_steps_the_correction_changes_nothing() -> None:
    plain = prepared(told(), correction="none", gamma=0.9).step
    corrected = prepared(told(), correction="vtrace", gamma=0.9).step
    for name in ("advantage", "target"):
        assert corrected[name].tolist() == pytest.approx(plain[name].tolist(), abs=1e-5)


def test_a_step_that_the_policy_would_not_repeat_hardly_counts() -> None:
    acted = [math.log(0.5) + 3.0, *[math.log(0.5)] * 5]
    got = prepared(told(log_prob=acted), gamma=0.9).step
    fresh = prepared(told(), gamma=0.9).step
    assert got["advantage"][0].item() == pytest.approx(
        math.exp(-3.0) * fresh["advantage"][0].item(), rel=1e-5
    )
    assert got["advantage"][1:].tolist() == pytest.approx(fresh["advantage"][1:].tolist())


def test_advantages_are_normalised_if_asked_for() -> None:
    got = prepared(told(), normalise=True, gamma=0.9).step
    assert got["advantage"].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert got["advantage"].std().item() == pytest.approx(1.0, abs=1e-5)
    plain = prepared(told(), gamma=0.9).step
    assert got["target"].tolist() == plain["target"].tolist()


def test_the_loss_is_the_papers() -> None:
    options = {"value_coefficient": 0.25, "entropy": 0.1, "gamma": 0.9}
    algorithm, policy = Algorithm(parse(Config, options)), Told()
    logit = [0.4, -0.3, 0.2, 0.0, 1.0, -1.0]
    batch = begun(algorithm, told(logit=logit), policy)
    outputs = policy.evaluate(batch.evaluated(), algorithm.plan.groups[0].want)
    loss = algorithm.loss("all", outputs, batch, Totals(6))
    loss.total.backward()
    expected, slope = 0.0, 0.0
    columns = (logit, batch.step["advantage"], batch.step["target"], batch.step["value"])
    for x, a, target, value in zip(*(list(map(float, c)) for c in columns), strict=True):
        p = 1 / (1 + math.exp(-x))
        entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
        expected += (-math.log(p) * a + 0.25 * 0.5 * (target - value) ** 2 - 0.1 * entropy) / 6
        slope += (-(1 - p) * a + 0.1 * p * (1 - p) * x) / 6
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert policy.shift.grad is not None
    assert policy.shift.grad.item() == pytest.approx(slope, rel=1e-4)
    assert set(loss.metrics) == {"policy_loss", "value_loss", "entropy"}


def test_parts_of_a_batch_add_up() -> None:
    algorithm, policy = Algorithm(Config()), Told()
    batch = begun(algorithm, told(), policy)
    want = algorithm.plan.groups[0].want
    whole = algorithm.loss("all", policy.evaluate(batch.evaluated(), want), batch, Totals(6))
    parts = [batch[:2], batch[2:]]
    losses = [
        algorithm.loss("all", policy.evaluate(part.evaluated(), want), part, Totals(6))
        for part in parts
    ]
    assert sum(loss.total.item() for loss in losses) == pytest.approx(whole.total.item())
    for name, value in whole.metrics.items():
        assert sum(loss.metrics[name].item() for loss in losses) == pytest.approx(value.item())


def test_a_policy_without_a_distribution_is_refused() -> None:
    spaces = Spaces({"observation": gym.Box(-1, 1, (2,))}, gym.Box(-1, 1, (1,)))
    network = parse(NetworkSettings, {"kind": "deterministic", "hidden": 8, "recurrent": 0})
    with pytest.raises(UserError, match=r"network\.kind: actor_critic needs a distribution"):
        on_policy.stochastic(create(spaces, network), "actor_critic")  # type: ignore[arg-type]


def test_what_a_job_leaves_out() -> None:
    spaces = Spaces({"observation": gym.Box(-1, 1, (2,))}, gym.Discrete(2))
    given = defaults(Config(), spaces)
    assert parse(NetworkSettings, given["network"]).kind == "actor_critic"


@pytest.mark.parametrize("correction", ["none", "vtrace"])
def test_it_learns_cartpole(correction: str) -> None:
    torch.manual_seed(0)
    reached = train(
        "CartPole-v1",
        {"name": "actor_critic", "correction": correction},
        count=8,
        rollout=16,
        turns=800,
        enough=150.0,
    )
    assert reached >= 150.0
