"""Advantages of completions beside the others of their group: pure functions on N fragments.

A group is what was sampled from one prompt. Whether all its rewards are equal is seen exactly: sums
are in float64, where the mean of equal float32 numbers is that number.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Groups(NamedTuple):
    """What is known of each fragment's group: float64 [N] each."""

    members: Tensor
    """Fragments in it."""
    deviation: Tensor
    """The fragment's value, less the mean of its group."""
    std: Tensor
    """Of its group, with n-1; 0 for a group of one."""


def groups(value: Tensor, group: Tensor) -> Groups:
    """Compare within groups: float [N] and int64 [N], numbered from 0."""
    value = value.double()
    size = int(group.max()) + 1 if len(group) else 0

    def total(column: Tensor) -> Tensor:
        zeros = torch.zeros(size, dtype=torch.float64, device=column.device)
        return zeros.index_add(0, group, column)[group]

    members = total(torch.ones_like(value))
    deviation = value - total(value) / members
    variance = total(deviation.square()) / (members - 1.0).clamp(min=1.0)
    return Groups(members, deviation, variance.sqrt())


def normalised(value: Tensor, group: Tensor, eps: float = 1e-6) -> Tensor:
    """(r - mean) / (std + eps) within groups (Shao et al., "GRPO", 2024, arXiv:2402.03300).

    Args:
        value: float [N], the fragments' returns.
        group: int64 [N], numbered from 0, of at least two fragments each.
        eps: outside the root.

    Returns:
        float32 [N]; 0 where all returns of a group are equal.
    """
    seen = groups(value, group)
    return (seen.deviation / (seen.std + eps)).float()


def centred(value: Tensor, group: Tensor) -> Tensor:
    """r - mean (Liu et al., "Dr. GRPO", 2025, arXiv:2503.20783); arguments as of `normalised`."""
    return groups(value, group).deviation.float()


def left_out(value: Tensor, group: Tensor) -> Tensor:
    """r less the mean of the others: n / (n - 1) (r - mean) (Kool et al., 2019; Ahmadian et al.,
    "RLOO", 2024, arXiv:2402.14740); arguments as of `normalised`, 0 in a group of one."""
    seen = groups(value, group)
    others = (seen.members - 1.0).clamp(min=1.0)
    return (seen.members / others * seen.deviation).float()


def without_variance(value: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """How many groups have equal values throughout, and how many there are: float64 scalars."""
    seen = groups(value, group)
    share = 1.0 / seen.members
    return (share * (seen.std == 0.0)).sum(), share.sum()
