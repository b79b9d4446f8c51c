"""Divergences: their values, and the gradients that estimators have in expectation."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from troupe_learners.kl import (
    approx_kl,
    categorical_kl,
    gaussian_kl,
    k1,
    k2,
    k3,
    log_ratio,
)

LOGITS = [0.3, -1.2, 0.8, 0.1]
REFERENCE = [-0.4, 0.5, 0.2, 0.9]


def plain_kl(p: np.ndarray, q: np.ndarray) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def softmax(logits: list[float]) -> np.ndarray:
    weight = np.exp(np.array(logits))
    return weight / weight.sum()


def difference(which: str) -> np.ndarray:
    """The gradient of KL(pi||ref) or KL(ref||pi) by the logits of pi, by central differences."""
    gradient, ref = [], softmax(REFERENCE)
    for i in range(len(LOGITS)):
        sides = []
        for step in (1e-5, -1e-5):
            moved = list(LOGITS)
            moved[i] += step
            pi = softmax(moved)
            sides.append(plain_kl(pi, ref) if which == "pi||ref" else plain_kl(ref, pi))
        gradient.append((sides[0] - sides[1]) / 2e-5)
    return np.array(gradient)


def expected_gradient(weight: Tensor, estimator: str) -> np.ndarray:
    """Of an estimator as a loss, exactly: every action, weighted by how often it is drawn."""
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    log_pi = logits.log_softmax(0)
    log_ref = torch.tensor(REFERENCE, dtype=torch.float64).log_softmax(0)
    term = {"k1": k1, "k2": k2, "k3": k3}[estimator](log_pi, log_ref)
    (gradient,) = torch.autograd.grad((weight * term).sum(), logits)
    return gradient.numpy()


PI = torch.from_numpy(softmax(LOGITS))


def test_golden_estimators() -> None:
    pi, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    assert k1(pi, ref).tolist() == pytest.approx([0.5, -1.0])
    assert k2(pi, ref).tolist() == pytest.approx([0.125, 0.5])
    assert k3(pi, ref).tolist() == pytest.approx([math.exp(-0.5) - 0.5, math.e - 2.0])


@pytest.mark.parametrize("estimator", [k1, k3])
def test_unbiased_estimators_are_right_in_expectation(
    estimator: Callable[[Tensor, Tensor], Tensor],
) -> None:
    log_pi, log_ref = PI.log(), torch.from_numpy(softmax(REFERENCE)).log()
    got = float((PI * estimator(log_pi, log_ref)).sum())
    assert got == pytest.approx(plain_kl(softmax(LOGITS), softmax(REFERENCE)))


def test_gradients_in_expectation() -> None:
    np.testing.assert_allclose(expected_gradient(PI, "k1"), 0.0, atol=1e-12)
    np.testing.assert_allclose(expected_gradient(PI, "k2"), difference("pi||ref"), atol=1e-8)
    np.testing.assert_allclose(expected_gradient(PI, "k3"), difference("ref||pi"), atol=1e-8)
    assert not np.allclose(difference("pi||ref"), difference("ref||pi"), atol=1e-2)


def test_actions_of_another_policy_are_weighted() -> None:
    mu = torch.from_numpy(softmax([1.0, 0.0, -1.0, 0.5]))
    weighted = mu * (PI / mu)
    np.testing.assert_allclose(expected_gradient(weighted, "k2"), difference("pi||ref"), atol=1e-8)
    assert not np.allclose(expected_gradient(mu, "k2"), difference("pi||ref"), atol=1e-2)


def test_log_ratios_are_clamped() -> None:
    far = torch.tensor([300.0, -300.0], requires_grad=True)
    zero = torch.zeros(2)
    assert log_ratio(far, zero).tolist() == [20.0, -20.0]
    term = k3(far, zero)
    assert term.tolist() == pytest.approx([math.exp(-20) + 19.0, math.exp(20) - 21.0], rel=1e-5)
    term.sum().backward()
    assert far.grad is not None
    assert far.grad.tolist() == [0.0, 0.0]


def test_approx_kl_is_of_the_old_policy() -> None:
    old = torch.from_numpy(softmax(REFERENCE))
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    term = approx_kl(logits.log_softmax(0), old.log())
    ratio = (PI / old).numpy()
    np.testing.assert_allclose(term.detach().numpy(), (ratio - 1) - np.log(ratio))
    assert (old * term).sum().item() == pytest.approx(plain_kl(softmax(REFERENCE), softmax(LOGITS)))
    (gradient,) = torch.autograd.grad((old * term).sum(), logits)
    np.testing.assert_allclose(gradient.numpy(), difference("ref||pi"), atol=1e-8)
    assert bool((term >= 0).all())


def test_small_steps_keep_their_precision() -> None:
    old = torch.zeros(1)
    assert k3(old + 1e-3, old).item() == pytest.approx(5e-7, rel=1e-2)
    assert k3(old, old).item() == 0.0


def test_categorical_kl_with_illegal_actions() -> None:
    p, q = [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.5, 0.0]
    log_p, log_q = torch.tensor([p, q]).log(), torch.tensor([q, q]).log()
    log_p.requires_grad_()
    kl = categorical_kl(log_p, log_q)
    assert kl.tolist() == pytest.approx([math.log(2), 0.0])
    kl.sum().backward()
    assert log_p.grad is not None
    assert bool(log_p.grad.isfinite().all())


def test_gaussian_kl_by_integration() -> None:
    x = np.linspace(-12, 12, 20001)

    def density(mean: float, std: float) -> np.ndarray:
        return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    one, two = density(0.3, 0.8), density(-0.2, 1.1)
    expected = float(np.sum(one * np.log(one / two)) * (x[1] - x[0]))
    got = gaussian_kl(*(torch.tensor([[number] * 2]) for number in (0.3, 0.8, -0.2, 1.1)))
    assert got.tolist() == pytest.approx([2 * expected], rel=1e-5)
