"""Returns against golden numbers and against a plain loop."""

import numpy as np
import pytest
import torch

from troupe.episodes import Ending
from troupe_learners.returns import linear_recurrence, monte_carlo, next_values


def test_golden_returns_of_two_fragments() -> None:
    reward = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    length = torch.tensor([4, 2], dtype=torch.int32)
    assert monte_carlo(reward, length).tolist() == [10.0, 9.0, 7.0, 4.0, 11.0, 6.0]
    discounted = [1 + 0.9 * (2 + 0.9 * (3 + 0.9 * 4)), 2 + 0.9 * (3 + 0.9 * 4), 6.6, 4.0, 10.4, 6.0]
    assert monte_carlo(reward, length, 0.9).tolist() == pytest.approx(discounted)


def test_a_final_payoff_reaches_every_step_of_its_fragment() -> None:
    reward = torch.tensor([0.0, 0.0, -4.0, 2.0, 0.0, 0.0, 0.0, 8.0])
    length = torch.tensor([3, 1, 4], dtype=torch.int32)
    assert monte_carlo(reward, length).tolist() == [-4.0] * 3 + [2.0] + [8.0] * 4


def test_large_neighbours_do_not_blur_a_fragment() -> None:
    reward = torch.tensor([1e-3, 1e-3, 3e8, 3e8], dtype=torch.float32)
    returns = monte_carlo(reward, torch.tensor([2, 2], dtype=torch.int32))
    assert returns[:2].tolist() == pytest.approx([2e-3, 1e-3])


@pytest.mark.parametrize("seed", range(5))
def test_the_recurrence_equals_a_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(1, 300))
    value = random.normal(size=size)
    factor = random.choice([0.0, 0.5, 0.99, 1.0], size=size, p=[0.05, 0.2, 0.4, 0.35])
    expected, following = np.zeros(size), 0.0
    for t in reversed(range(size)):
        following = value[t] + factor[t] * (following if t < size - 1 else 0.0)
        expected[t] = following
    got = linear_recurrence(torch.from_numpy(value), torch.from_numpy(factor))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_inputs_are_left_alone_and_nothing_is_fine() -> None:
    reward, factor = torch.ones(3), torch.ones(3)
    linear_recurrence(reward, factor)
    assert reward.tolist() == factor.tolist() == [1.0] * 3
    assert monte_carlo(torch.zeros(0), torch.zeros(0, dtype=torch.int32)).shape == (0,)


def test_the_next_value_is_never_that_of_another_episode() -> None:
    value = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    bootstrap = torch.tensor([2.0, torch.nan, 1.5])
    length = torch.tensor([3, 1, 2], dtype=torch.int32)
    ending = torch.tensor([Ending.TRUNCATED, Ending.TERMINATED, Ending.CUT], dtype=torch.uint8)
    following = next_values(value, bootstrap, length, ending)
    assert following.tolist() == pytest.approx([0.6, 0.7, 2.0, 0.0, 1.0, 1.5])
    assert value[2].item() == pytest.approx(0.7)
