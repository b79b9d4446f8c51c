"""From S steps to the N fragments that they belong to, and back."""

import torch
from torch import Tensor


def sums(value: Tensor, length: Tensor) -> Tensor:
    """float [S] to [N]: what the steps of each fragment sum to; differentiable."""
    total = torch.zeros(len(length), dtype=value.dtype, device=value.device)
    return total.index_add(0, owners(length, len(value)), value)


def spread(value: Tensor, length: Tensor, steps: int) -> Tensor:
    """[N] to [S]: each fragment's value at each of its steps; differentiable."""
    return value[owners(length, steps)]


def owners(length: Tensor, steps: int) -> Tensor:
    """int64 [S]: the fragment of each step, of int [N] lengths that sum to S."""
    index = torch.arange(len(length), device=length.device)
    return torch.repeat_interleave(index, length, output_size=steps)
