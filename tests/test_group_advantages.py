"""Advantages within groups, and surrogates of GRPO's relatives, by golden numbers."""

import math

import pytest
import torch

from troupe_learners.corrections import truncated, trusted
from troupe_learners.group_advantages import centred, left_out, normalised, without_variance
from troupe_learners.sequences import spread, sums
from troupe_learners.text_losses import (
    cispo,
    clipped_ratio,
    mirror_descent,
    sequence_log_ratio,
)

GROUP = torch.tensor([0, 1, 0, 1, 0])
REWARD = torch.tensor([1.0, 5.0, 2.0, 5.0, 6.0])


def test_golden_advantages() -> None:
    # Of 1, 2, 6: mean 3, deviation with n-1 sqrt(7).
    std = math.sqrt(7) + 1e-6
    assert normalised(REWARD, GROUP).tolist() == pytest.approx([-2 / std, 0, -1 / std, 0, 3 / std])
    assert centred(REWARD, GROUP).tolist() == [-2.0, 0.0, -1.0, 0.0, 3.0]
    # 1 less the mean of 2 and 6, and so on.
    assert left_out(REWARD, GROUP).tolist() == pytest.approx([-3.0, 0.0, -1.5, 0.0, 4.5])


def test_eps_is_outside_of_the_root() -> None:
    got = normalised(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), eps=1.0)
    assert got.tolist() == pytest.approx([-0.5 / (math.sqrt(0.5) + 1), 0.5 / (math.sqrt(0.5) + 1)])


@pytest.mark.parametrize("reward", [0.1, 1 / 3, -7.7, 0.0])
def test_equal_rewards_are_worth_exactly_nothing(reward: float) -> None:
    value, group = torch.full((7,), reward), torch.zeros(7, dtype=torch.int64)
    for compare in (normalised, centred, left_out):
        assert compare(value, group).tolist() == [0.0] * 7
    assert [n.item() for n in without_variance(value, group)] == pytest.approx([1.0, 1.0])


def test_groups_without_variance_are_counted() -> None:
    assert [n.item() for n in without_variance(REWARD, GROUP)] == pytest.approx([1.0, 2.0])


def test_a_group_of_one_is_no_nan() -> None:
    for compare in (normalised, centred, left_out):
        assert compare(torch.tensor([3.0]), torch.tensor([0])).tolist() == [0.0]


def test_fragments_and_steps() -> None:
    value, length = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2, 1])
    assert sums(value, length).tolist() == [3.0, 3.0]
    assert spread(torch.tensor([4.0, 5.0]), length, 3).tolist() == [4.0, 4.0, 5.0]


def test_ratios_of_sequences_are_means_of_their_log_ratios() -> None:
    old, length = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([2, 1])
    new = torch.tensor([-0.8, -2.4, -0.5], requires_grad=True)
    log = sequence_log_ratio(new, old, length)
    assert log.tolist() == pytest.approx([-0.1, -0.1, 0.0])
    log[0].backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_golden_clip_of_a_ratio() -> None:
    log = torch.tensor([1.0, 1.5, 1.5, 0.5, 0.5]).log()
    advantage = torch.tensor([2.0, 2.0, -2.0, 2.0, -2.0])
    got = clipped_ratio(log, advantage, low=0.2, high=0.28)
    assert got.tolist() == pytest.approx([-2.0, -2.56, 3.0, -1.0, 1.6])


def test_cispo_caps_the_weight_and_keeps_the_gradient() -> None:
    old = torch.tensor([-2.0, -2.0])
    new = torch.tensor([-2.0 + math.log(9.0), -2.0], requires_grad=True)
    term = cispo(new, old, torch.tensor([1.0, 3.0]), high=4.0)
    term.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([-5.0, -3.0])


def test_mirror_descent_has_the_gradient_of_the_papers_square() -> None:
    random = torch.Generator().manual_seed(1)
    length, deviation, tau = torch.tensor([3, 2]), torch.tensor([0.7, -0.2]), 0.3
    reference = torch.randn(5, generator=random)
    new = (reference + torch.randn(5, generator=random)).requires_grad_()
    got = mirror_descent(new, reference, deviation, length, tau=tau)
    square = (deviation - tau * sums(new - reference, length)).square() / (2 * tau)
    for own, paper in zip(
        torch.autograd.grad(got.sum(), new, retain_graph=True),
        torch.autograd.grad(square.sum(), new),
        strict=True,
    ):
        torch.testing.assert_close(own, paper)
    torch.testing.assert_close(got, square - deviation.square() / (2 * tau))


def test_corrections_are_masked_or_truncated() -> None:
    mu = torch.zeros(4)
    old = torch.tensor([0.4, 0.5, 2.0, 2.1]).log()
    assert trusted(old, mu, 0.5, 2.0).tolist() == pytest.approx([0.0, 0.5, 2.0, 0.0])
    assert truncated(old, mu, 2.0).tolist() == pytest.approx([0.4, 0.5, 2.0, 2.0])
