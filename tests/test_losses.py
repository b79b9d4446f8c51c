"""Losses against golden numbers and against plain arithmetic."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe_learners.kl import approx_kl
from troupe_learners.losses import (
    actor_critic,
    adapted_beta,
    clipped,
    clipped_value_error,
    deterministic_policy,
    mean_square,
    policy_gradient,
    ppo_clip,
    ppo_penalty,
    td_loss,
    value_error,
)

RATIO = [1.0, 1.5, 1.5, 0.5, 0.5, 1.1]
ADVANTAGE = [2.0, 2.0, -2.0, 2.0, -2.0, -1.0]

numbers = st.lists(
    st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-5, 5)), min_size=1, max_size=20
)


def test_mean_square_adds_up_over_parts() -> None:
    prediction, target = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 0.0, 1.0])
    whole = mean_square(prediction, target, 3)
    parts = mean_square(prediction[:1], target[:1], 3) + mean_square(prediction[1:], target[1:], 3)
    assert whole.item() == pytest.approx(14 / 3)
    assert parts.item() == pytest.approx(14 / 3)


def test_policy_gradient_golden() -> None:
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    term = policy_gradient(log_prob, torch.tensor([3.0, -0.5]))
    assert term.tolist() == [3.0, -1.0]
    term.sum().backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [-3.0, 0.5]


def test_the_clip_acts_only_where_there_is_something_to_gain() -> None:
    log_prob = torch.tensor(RATIO).log().requires_grad_()
    term = ppo_clip(log_prob, torch.zeros(6), torch.tensor(ADVANTAGE), low=0.2, high=0.2)
    assert term.tolist() == pytest.approx([-2.0, -2.4, 3.0, -1.0, 1.6, 1.1])
    term.sum().backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == pytest.approx([-2.0, 0.0, 3.0, -1.0, 0.0, 1.1])
    outside = clipped(log_prob, torch.zeros(6), low=0.2, high=0.2)
    assert outside.tolist() == [False, True, True, True, True, False]


@settings(max_examples=60, deadline=None)
@given(numbers, st.floats(0.01, 0.9), st.floats(0.01, 0.9))
def test_ppo_clip_is_the_papers(
    steps: list[tuple[float, float, float]], low: float, high: float
) -> None:
    expected, outside = [], []
    for new, old, advantage in steps:
        ratio = math.exp(new - old)
        held = min(max(ratio, 1 - low), 1 + high)
        expected.append(-min(ratio * advantage, held * advantage))
        outside.append(held != ratio)
    new, old, advantage = torch.tensor(steps, dtype=torch.float64).unbind(1)
    term = ppo_clip(new, old, advantage, low=low, high=high)
    np.testing.assert_allclose(term.numpy(), expected, rtol=1e-9, atol=1e-12)
    fraction = clipped(new, old, low=low, high=high).double().mean().item()
    assert fraction == pytest.approx(sum(outside) / len(outside))


def test_on_policy_the_surrogate_has_the_policys_gradient() -> None:
    advantage = torch.tensor([2.0, -3.0])
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    surrogate = ppo_clip(log_prob, log_prob.detach(), advantage, low=0.2, high=0.2)
    (one,) = torch.autograd.grad(surrogate.sum(), log_prob)
    (two,) = torch.autograd.grad(policy_gradient(log_prob, advantage).sum(), log_prob)
    assert one.tolist() == two.tolist() == [-2.0, 3.0]


def test_a_ratio_out_of_all_bounds_stays_finite() -> None:
    far = torch.tensor([1e4, -1e4])
    term = ppo_clip(far, torch.zeros(2), torch.tensor([-1.0, 1.0]), low=0.2, high=0.2)
    assert bool(term.isfinite().all())


def test_the_penalty_is_weighed_against_the_advantage() -> None:
    log_prob = torch.tensor([1.2, 0.5]).log().requires_grad_()
    old, advantage = torch.zeros(2), torch.tensor([2.0, -1.0])
    term = ppo_penalty(log_prob, old, advantage, approx_kl(log_prob, old), beta=3.0)
    kl = [0.2 - math.log(1.2), -0.5 - math.log(0.5)]
    assert term.tolist() == pytest.approx([3 * kl[0] - 2.4, 3 * kl[1] + 0.5])
    term.sum().backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == pytest.approx([3 * 0.2 - 2.4, 3 * -0.5 + 0.5])


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(0.0151, 2.0), (0.0149, 1.0), (0.01, 1.0), (0.0067, 1.0), (0.0066, 0.5), (0.0, 0.5)],
)
def test_beta_follows_the_kl(kl: float, expected: float) -> None:
    assert adapted_beta(1.0, kl, target=0.01, most=10.0) == expected


def test_beta_is_capped() -> None:
    assert adapted_beta(8.0, 1.0, target=0.01, most=10.0) == 10.0


def test_value_errors_golden() -> None:
    value = torch.tensor([2.0, 2.0, 0.9], requires_grad=True)
    target, old = torch.tensor([3.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0])
    assert value_error(value, target).tolist() == pytest.approx([0.5, 2.0, 0.005])
    term = clipped_value_error(value, target, old, 0.2)
    assert term.tolist() == pytest.approx([0.5 * 1.8**2, 2.0, 0.005])
    term.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == pytest.approx([0.0, 2.0, -0.1])


def test_an_actor_critic_is_the_sum_of_its_terms() -> None:
    policy, value, entropy = (torch.tensor([number]) for number in (1.0, 2.0, 3.0))
    term = actor_critic(policy, value, entropy, value_coefficient=0.5, entropy_coefficient=0.1)
    assert term.tolist() == pytest.approx([1.0 + 1.0 - 0.3])


@settings(max_examples=40, deadline=None)
@given(numbers, st.floats(0.1, 3))
def test_td_losses_are_those_of_the_books(
    steps: list[tuple[float, float, float]], edge: float
) -> None:
    squares, hubers = [], []
    for value, target, weight in steps:
        error = abs(value - target)
        squares.append(weight * error**2 / 2)
        hubers.append(weight * (error**2 / 2 if error <= edge else edge * (error - edge / 2)))
    value, target, weight = torch.tensor(steps, dtype=torch.float64).unbind(1)
    np.testing.assert_allclose(td_loss(value, target, weight).numpy(), squares, atol=1e-12)
    np.testing.assert_allclose(td_loss(value, target, weight, edge).numpy(), hubers, atol=1e-12)


def test_hubers_gradient_is_bounded() -> None:
    value = torch.tensor([5.0, 0.5, -5.0, 0.0], requires_grad=True)
    term = td_loss(value, torch.zeros(4), huber=1.0)
    assert term.tolist() == pytest.approx([4.5, 0.125, 4.5, 0.0])
    term.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [1.0, 0.5, -1.0, 0.0]


def test_the_deterministic_actor_climbs_its_critic() -> None:
    action = torch.tensor([0.5, -1.0], requires_grad=True)
    deterministic_policy(-(action - 2.0).square()).sum().backward()
    assert action.grad is not None
    assert action.grad.tolist() == [-3.0, -6.0]
