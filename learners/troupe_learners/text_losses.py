"""Surrogates of GRPO's relatives: pure functions, each giving terms to minimise. See `losses`."""

import torch
from torch import Tensor

from troupe_learners.kl import log_ratio
from troupe_learners.sequences import spread, sums


def sequence_log_ratio(log_prob: Tensor, old_log_prob: Tensor, length: Tensor) -> Tensor:
    """The mean log-ratio of each step's fragment, at each of its steps: float [S].

    The logarithm of GSPO's ratio (Zheng et al., 2025, arXiv:2507.18071, eq. 7).
    """
    mean = sums(log_ratio(log_prob, old_log_prob), length) / length
    return spread(mean, length, len(log_prob))


def clipped_ratio(log: Tensor, advantage: Tensor, *, low: float, high: float) -> Tensor:
    """-min(ratio A, clip(ratio) A) of any logarithms of ratios, all float [S], see `ppo_clip`."""
    ratio = log.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - low, 1.0 + high) * advantage)


def cispo(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, *, high: float) -> Tensor:
    """-sg(min(ratio, 1 + high)) A log pi (MiniMax, "CISPO", 2025, arXiv:2506.13585, eq. 4).

    The weight is clipped, so that no token's gradient is lost.

    Args:
        log_prob: float [S], differentiable.
        old_log_prob: float [S].
        advantage: float [S].
        high: how far a weight may rise above 1.

    Returns:
        float [S].
    """
    ratio = log_ratio(log_prob.detach(), old_log_prob).exp().clamp(max=1.0 + high)
    return -ratio * advantage * log_prob


def mirror_descent(
    log_prob: Tensor, reference: Tensor, deviation: Tensor, length: Tensor, *, tau: float
) -> Tensor:
    """Policy mirror descent of Kimi k1.5 (2025, arXiv:2501.12599, eq. 3), of each fragment.

    (r - mean r - tau sum_t log(pi/ref))^2 / (2 tau), less what does not depend on pi: divided by
    2 tau, so that a learning rate means the same for any tau.

    Args:
        log_prob: float [S], differentiable.
        reference: float [S], of the policy that this iteration began with.
        deviation: float [N], r - mean r.
        length: int [N].
        tau: weight of staying near the reference.

    Returns:
        float [N].
    """
    travelled = sums(log_prob - reference, length)
    return 0.5 * tau * travelled.square() - deviation * travelled
