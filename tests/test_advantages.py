"""Advantages against golden numbers, and against sums written out as their papers do."""

import math
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from troupe.episodes import Ending
from troupe_learners.advantages import gae, moments, normalise, vtrace

REWARD = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
VALUE = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
NEXT = [0.6, 0.7, 2.0, 3.0, 1.0, 1.5]
"""V(s_{t+1}) as it truly is: the episode is truncated at t=2, another terminates at t=3."""
ENDINGS = [Ending.CUT, Ending.TERMINATED, Ending.TRUNCATED]


def laid_out(parts: list[list[float]]) -> Tensor:
    return torch.tensor(list(chain.from_iterable(parts)), dtype=torch.float64)


@dataclass
class Fragments:
    """Random fragments as plain lists, one list each."""

    reward: list[list[float]]
    value: list[list[float]]
    log_ratio: list[list[float]]
    bootstrap: list[float]
    ending: list[Ending]

    def flat(self) -> dict[str, Tensor]:
        return {
            "reward": laid_out(self.reward),
            "value": laid_out(self.value),
            "bootstrap": torch.tensor(self.bootstrap, dtype=torch.float64),
            "length": torch.tensor([len(part) for part in self.reward], dtype=torch.int32),
            "ending": torch.tensor(self.ending, dtype=torch.uint8),
        }

    def flat_log_ratio(self) -> Tensor:
        return laid_out(self.log_ratio)


@st.composite
def fragments(draw: st.DrawFn) -> Fragments:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    ending = [draw(st.sampled_from(ENDINGS)) for _ in lengths]
    bootstrap = [math.nan if end == Ending.TERMINATED else float(random.normal()) for end in ending]
    return Fragments(
        reward=[random.normal(size=length).tolist() for length in lengths],
        value=[random.normal(size=length).tolist() for length in lengths],
        log_ratio=[random.normal(size=length).tolist() for length in lengths],
        bootstrap=bootstrap,
        ending=ending,
    )


def golden() -> list[float]:
    credit = gae(
        torch.tensor(REWARD),
        torch.tensor(VALUE),
        torch.tensor([2.0, 3.0, 1.5]),
        length=torch.tensor([3, 1, 2], dtype=torch.int32),
        ending=torch.tensor([Ending.TRUNCATED, Ending.TERMINATED, Ending.CUT], dtype=torch.uint8),
        gamma=0.9,
        lambda_=0.8,
    )
    advantage: list[float] = credit.advantage.tolist()
    return advantage


def plain_gae(*, following: list[float], worthless: set[int], cuts: set[int]) -> list[float]:
    """The golden case by a loop that can be got wrong in each of the usual ways."""
    advantage, after = [0.0] * 6, 0.0
    for t in reversed(range(6)):
        future = 0.0 if t in worthless else following[t]
        after = 0.0 if t in cuts else after
        after = REWARD[t] + 0.9 * future - VALUE[t] + 0.9 * 0.8 * after
        advantage[t] = after
    return advantage


def test_gae_is_the_right_one_of_five() -> None:
    reset = [0.6, 0.7, 0.8, 3.0, 1.0, 1.5]
    right = plain_gae(following=NEXT, worthless={3}, cuts={2, 3})
    wrong = {
        "truncation ends the future": plain_gae(following=NEXT, worthless={2, 3}, cuts={2, 3}),
        "truncation does not cut": plain_gae(following=NEXT, worthless={3}, cuts={3}),
        "nothing cuts": plain_gae(following=NEXT, worthless={3}, cuts=set()),
        "from the reset observation": plain_gae(following=reset, worthless={3}, cuts={2, 3}),
    }
    assert right == pytest.approx([4.62704, 4.982, 4.1, 3.2, 9.572, 6.35])
    assert wrong["truncation ends the future"][:3] == pytest.approx([3.69392, 3.686, 2.3])
    assert wrong["truncation does not cut"][:4] == pytest.approx([5.821434, 6.64088, 6.404, 3.2])
    assert wrong["nothing cuts"] == pytest.approx(
        [8.393799, 10.21361, 11.366125, 10.09184, 9.572, 6.35]
    )
    assert wrong["from the reset observation"][:3] == pytest.approx([4.067168, 4.2044, 3.02])
    got = golden()
    assert got == pytest.approx(right)
    for mistake, advantage in wrong.items():
        assert got != pytest.approx(advantage), mistake


def test_the_target_of_gae_is_the_lambda_return() -> None:
    part = Fragments([[1.0, 2.0]], [[0.5, 0.6]], [[]], [3.0], [Ending.CUT])
    credit = gae(**part.flat(), gamma=0.9, lambda_=0.8)
    last = 2.0 + 0.9 * 3.0
    first = 1.0 + 0.9 * (0.2 * 0.6 + 0.8 * last)  # Sutton and Barto, 2nd ed., eq. 12.8
    assert credit.target.tolist() == pytest.approx([first, last])
    assert credit.advantage.tolist() == pytest.approx([first - 0.5, last - 0.6])


@settings(max_examples=60, deadline=None)
@given(fragments(), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_discounted_sum_of_errors(part: Fragments, gamma: float, lambda_: float) -> None:
    expected = []
    for reward, value, bootstrap, ending in zip(
        part.reward, part.value, part.bootstrap, part.ending, strict=True
    ):
        after = [*value[1:], 0.0 if ending == Ending.TERMINATED else bootstrap]
        error = [r + gamma * n - v for r, n, v in zip(reward, after, value, strict=True)]
        expected += [
            sum((gamma * lambda_) ** k * e for k, e in enumerate(error[t:]))
            for t in range(len(error))
        ]
    credit = gae(**part.flat(), gamma=gamma, lambda_=lambda_)
    np.testing.assert_allclose(credit.advantage.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_golden_vtrace() -> None:
    credit = vtrace(
        torch.tensor(REWARD),
        torch.tensor(VALUE),
        torch.tensor([1.5]),
        torch.tensor([0.3, -0.5, 0.0, 0.7, -0.2, 0.1]),
        torch.tensor([6], dtype=torch.int32),
        torch.tensor([Ending.CUT], dtype=torch.uint8),
        gamma=0.9,
    )
    assert credit.target.tolist() == pytest.approx(
        [9.395942, 9.328824, 14.434887, 12.70543, 9.6727, 7.35], abs=1e-5
    )
    assert credit.advantage.tolist() == pytest.approx(
        [8.895942, 8.728824, 13.734887, 11.90543, 8.7727, 6.35], abs=1e-5
    )


def plain_vtrace(
    part: Fragments, gamma: float, lambda_: float, rho_bar: float, c_bar: float
) -> tuple[list[float], list[float]]:
    """vs_s = V_s + sum_t gamma^(t-s) (prod_{i=s}^{t-1} c_i) delta_t: the paper's first equation.

    Its remark 2 puts lambda before every c_i.
    """
    targets, advantages = [], []
    for reward, value, log_ratio, bootstrap, ending in zip(
        part.reward, part.value, part.log_ratio, part.bootstrap, part.ending, strict=True
    ):
        size = len(reward)
        end = 0.0 if ending == Ending.TERMINATED else bootstrap
        rho = [min(rho_bar, math.exp(x)) for x in log_ratio]
        c = [lambda_ * min(c_bar, math.exp(x)) for x in log_ratio]
        after = [*value[1:], end]
        delta = [rho[t] * (reward[t] + gamma * after[t] - value[t]) for t in range(size)]
        vs = [
            value[s] + sum(gamma ** (t - s) * math.prod(c[s:t]) * delta[t] for t in range(s, size))
            for s in range(size)
        ]
        targets += vs
        after = [*vs[1:], end]
        advantages += [rho[t] * (reward[t] + gamma * after[t] - value[t]) for t in range(size)]
    return targets, advantages


@settings(max_examples=60, deadline=None)
@given(fragments(), st.floats(0, 1), st.floats(0, 1), st.floats(0.5, 3), st.floats(0.5, 3))
def test_vtrace_is_the_papers_sum(
    part: Fragments, gamma: float, lambda_: float, rho_bar: float, c_bar: float
) -> None:
    credit = vtrace(
        **part.flat(),
        log_ratio=part.flat_log_ratio(),
        gamma=gamma,
        lambda_=lambda_,
        rho_bar=rho_bar,
        c_bar=c_bar,
    )
    targets, advantages = plain_vtrace(part, gamma, lambda_, rho_bar, c_bar)
    np.testing.assert_allclose(credit.target.numpy(), targets, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(credit.advantage.numpy(), advantages, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(fragments(), st.floats(0, 1), st.floats(1, 9))
def test_on_policy_vtrace_is_the_bootstrapped_return(
    part: Fragments, gamma: float, bar: float
) -> None:
    expected = []
    for reward, bootstrap, ending in zip(part.reward, part.bootstrap, part.ending, strict=True):
        following, returns = 0.0 if ending == Ending.TERMINATED else bootstrap, []
        for r in reversed(reward):
            following = r + gamma * following
            returns.append(following)
        expected += returns[::-1]
    flat = part.flat()
    same = torch.zeros_like(flat["reward"])
    credit = vtrace(**flat, log_ratio=same, gamma=gamma, rho_bar=bar, c_bar=bar)
    np.testing.assert_allclose(credit.target.numpy(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        credit.advantage.numpy(), np.array(expected) - flat["value"].numpy(), rtol=1e-9, atol=1e-9
    )


def test_parts_are_normalised_by_the_moments_of_all() -> None:
    value = np.random.default_rng(0).normal(1e4, 2.0, size=101).astype(np.float32)
    parts = torch.from_numpy(value).split([40, 61])
    totals = moments(parts[0]) + moments(parts[1])
    got = torch.cat([normalise(part, totals) for part in parts])
    exact = value.astype(np.float64)
    expected = (exact - exact.mean()) / (exact.std(ddof=1) + 1e-8)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert got.dtype == torch.float32


def test_masked_steps_are_not_counted() -> None:
    value = torch.tensor([1.0, torch.nan, 3.0, 1e30])
    mask = torch.tensor([True, False, True, False])
    assert moments(value, mask).tolist() == [2.0, 4.0, 10.0]
    assert normalise(value[mask], moments(value, mask)).tolist() == pytest.approx(
        [-math.sqrt(0.5), math.sqrt(0.5)]
    )


def test_one_step_is_left_alone_and_equal_ones_are_nothing() -> None:
    one = torch.tensor([7.0])
    assert normalise(one, moments(one)).tolist() == [7.0]
    equal = torch.full((5,), 7.3)
    assert normalise(equal, moments(equal)).abs().max().item() < 1e-5
    none = torch.zeros(0)
    assert normalise(none, moments(none)).shape == (0,)
