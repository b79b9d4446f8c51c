"""Targets against golden numbers and against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe.episodes import Ending
from troupe_learners.targets import bootstrapped, double_q, n_step, smoothed, twin_minimum

REWARD = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
NEXT = torch.tensor([0.6, 0.7, 2.0, 3.0, 1.0, 1.5])
LENGTH = torch.tensor([3, 1, 2], dtype=torch.int32)
ENDING = torch.tensor([Ending.TRUNCATED, Ending.TERMINATED, Ending.CUT], dtype=torch.uint8)


def test_golden_three_step_targets() -> None:
    window = n_step(REWARD, LENGTH, ENDING, gamma=0.9, n=3)
    target = bootstrapped(window.reward, window.discount, NEXT[window.last])
    assert target.tolist() == pytest.approx([6.688, 6.32, 4.8, 4.0, 11.615, 7.35])
    assert window.discount.tolist() == pytest.approx([0.729, 0.81, 0.9, 0.0, 0.81, 0.9])
    assert window.last.tolist() == [2, 2, 2, 3, 5, 5]


def test_one_step_targets_are_those_of_ddpg() -> None:
    window = n_step(REWARD, LENGTH, ENDING, gamma=0.9, n=1)
    target = bootstrapped(window.reward, window.discount, NEXT[window.last])
    terminated = [0, 0, 0, 1, 0, 0]
    expected = [
        r + 0.9 * (1 - over) * q
        for r, over, q in zip(REWARD.tolist(), terminated, NEXT.tolist(), strict=True)
    ]
    assert target.tolist() == pytest.approx(expected)


def test_a_window_goes_on_where_fragments_of_an_episode_are_given_as_one() -> None:
    apart = n_step(REWARD, torch.tensor([2, 4]), torch.tensor([0, 1]), gamma=1.0, n=3)
    joined = n_step(REWARD, torch.tensor([6]), torch.tensor([1]), gamma=1.0, n=3)
    assert apart.reward.tolist() == [3.0, 2.0, 12.0, 15.0, 11.0, 6.0]
    assert joined.reward.tolist() == [6.0, 9.0, 12.0, 15.0, 11.0, 6.0]
    assert joined.discount.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(list(Ending))), min_size=1, max_size=5),
    st.integers(1, 12),
    st.floats(0.1, 1),
    st.integers(0, 2**32 - 1),
)
def test_windows_are_those_of_a_loop(
    parts: list[tuple[int, Ending]], n: int, gamma: float, seed: int
) -> None:
    reward = np.random.default_rng(seed).normal(size=sum(length for length, _ in parts))
    sums, discounts, lasts, start = [], [], [], 0
    for length, ending in parts:
        end = start + length
        for t in range(start, end):
            total, discount, at = 0.0, 1.0, t
            while at < end and at < t + n:
                total += discount * reward[at]
                discount *= gamma
                at += 1
            sums.append(total)
            discounts.append(0.0 if at == end and ending == Ending.TERMINATED else discount)
            lasts.append(at - 1)
        start = end
    got = n_step(
        torch.from_numpy(reward),
        torch.tensor([length for length, _ in parts], dtype=torch.int32),
        torch.tensor([ending for _, ending in parts], dtype=torch.uint8),
        gamma=gamma,
        n=n,
    )
    np.testing.assert_allclose(got.reward.numpy(), sums, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.discount.numpy(), discounts, rtol=1e-9)
    assert got.last.tolist() == lasts


def test_what_follows_termination_is_not_read() -> None:
    y = bootstrapped(
        torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.5]), torch.tensor([torch.nan, 4.0])
    )
    assert y.tolist() == [1.0, 3.0]


def test_one_network_chooses_and_the_other_values() -> None:
    online = torch.tensor([[1.0, 5.0, 9.0], [3.0, 2.0, 1.0]])
    target = torch.tensor([[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]])
    assert double_q(online, target).tolist() == [30.0, 40.0]
    assert double_q(target, target).tolist() == [30.0, 60.0]
    illegal = torch.tensor([[False, False, True], [True, False, False]])
    assert double_q(online.masked_fill(illegal, -torch.inf), target).tolist() == [20.0, 50.0]


def test_twins_agree_on_the_lower_value() -> None:
    twins = torch.tensor([[1.0, 5.0, -2.0], [2.0, 4.0, -3.0]])
    assert twin_minimum(twins).tolist() == [1.0, 4.0, -3.0]


def test_smoothing_clips_noise_then_the_action() -> None:
    action = torch.tensor([[0.0, 1.9], [-0.9, 0.3]])
    noise = torch.tensor([[0.7, 0.1], [-0.2, -9.0]])
    low, high = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 2.0])
    got = smoothed(action, noise, limit=0.5, low=low, high=high)
    assert got.flatten().tolist() == pytest.approx([0.5, 2.0, -1.0, -0.7])
