"""Weights for steps of another policy than the one that is improved: pure functions.

Three policies meet where several optimizer steps are made on stale data: mu, that acted, pi_old, from
which the batch's steps are measured, and pi. The clip is on pi/pi_old; these weights, pi_old/mu, make
expectations under mu into those under pi_old (Hilton et al., 2022, arXiv:2110.00641).
"""

import torch
from torch import Tensor

from troupe_learners.kl import log_ratio


def trusted(old_log_prob: Tensor, acted_log_prob: Tensor, low: float, high: float) -> Tensor:
    """pi_old / mu of every step, 0 where it lies outside [low, high]: float [S] each.

    It leaves out what pi_old would hardly have done, or far more often.
    """
    ratio = log_ratio(old_log_prob, acted_log_prob).exp()
    return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)


def truncated(old_log_prob: Tensor, acted_log_prob: Tensor, high: float) -> Tensor:
    """pi_old / mu of every step, at most `high` (Ionides, 2008): float [S] each."""
    return log_ratio(old_log_prob, acted_log_prob).exp().clamp(max=high)
