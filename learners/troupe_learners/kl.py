"""Divergences between policies: from samples, and in closed form.

Of the estimators (Schulman, "Approximating KL divergence", 2020), with actions drawn from pi, all
of k1, k2 and k3 look at KL(pi||ref), but as losses they differ: the expected gradient of k1 is 0,
that of k2 is the gradient of KL(pi||ref), that of k3 the gradient of KL(ref||pi). With actions
drawn from another policy mu, each is to be weighted by pi/mu.
"""

import torch
from torch import Tensor

LIMIT = 20.0
"""Log-ratios are clamped to +- this: e^20 is far beyond use, e^89 is beyond float32."""


def log_ratio(log_prob: Tensor, other: Tensor) -> Tensor:
    """log(p / q) of the actions taken, within +-`LIMIT`, outside of which no gradient flows: float [S]."""
    return (log_prob - other).clamp(-LIMIT, LIMIT)


def k1(log_prob: Tensor, reference: Tensor) -> Tensor:
    """log(pi/ref): unbiased, of high variance, may be negative; belongs in rewards, not in a loss.

    Args:
        log_prob: float [S], log pi(a_t|s_t).
        reference: float [S], log ref(a_t|s_t).

    Returns:
        float [S].
    """
    return log_ratio(log_prob, reference)


def k2(log_prob: Tensor, reference: Tensor) -> Tensor:
    """log(pi/ref)^2 / 2: biased, never negative; arguments as of `k1`."""
    return 0.5 * log_ratio(log_prob, reference).square()


def k3(log_prob: Tensor, reference: Tensor) -> Tensor:
    """ref/pi - 1 - log(ref/pi): unbiased, never negative; arguments as of `k1`."""
    log = log_ratio(reference, log_prob)
    return log.expm1() - log


def approx_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """An estimate of KL(old||pi) from actions of the old policy: (ratio - 1) - log ratio, float [S].

    Its mean is never negative, tells how far an update went, and has the gradient of KL(old||pi).
    """
    return k3(old_log_prob, log_prob)


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p||q) over the last dimension.

    Args:
        log_p: float [S, A], normalised log-probabilities; -inf where an action is illegal.
        log_q: float [S, A], likewise.

    Returns:
        float [S]; an action that p never takes adds nothing.
    """
    possible = log_p > -torch.inf
    log_p = log_p.masked_fill(~possible, 0.0)
    log = (log_p - log_q.masked_fill(~possible, 0.0)).clamp(-LIMIT, LIMIT)
    return torch.where(possible, log_p.exp() * log, 0.0).sum(-1)


def gaussian_kl(mean_p: Tensor, std_p: Tensor, mean_q: Tensor, std_q: Tensor) -> Tensor:
    """KL(p||q) of normal distributions with independent dimensions: four of float [S, D] to [S]."""
    variance = (std_p / std_q).square()
    shift = ((mean_p - mean_q) / std_q).square()
    return 0.5 * (variance + shift - 1.0 - variance.log()).sum(-1)
