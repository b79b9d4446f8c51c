"""From the terms of steps to one loss: a weight for each step, with denominators of the whole batch.

A denominator counts all that one optimizer step sees, over micro-batches and ranks together, so
losses and gradients add up the same however the batch is divided. Where ranks' gradients are
averaged rather than added, the loss is to be multiplied by the number of ranks.

The mask says which steps the policy chose. Steps that are rejected later keep their place in the
denominators: compute the weights first, then set those of rejected steps to 0.
"""

import torch
from torch import Tensor


def token_weights(mask: Tensor, tokens: float | Tensor) -> Tensor:
    """Every step counts the same: the mean over steps (Yu et al., "DAPO", 2025, arXiv:2503.14476).

    Args:
        mask: bool [S].
        tokens: steps of the whole batch where the mask holds.

    Returns:
        float32 [S].
    """
    return mask.float() / _denominator(tokens, mask)


def sequence_weights(mask: Tensor, length: Tensor, sequences: float | Tensor) -> Tensor:
    """Every sequence counts the same: the mean of means (Shao et al., "GRPO", 2024, arXiv:2402.03300).

    Args:
        mask: bool [S].
        length: int [N], steps of each sequence; they sum to S. No sequence may be divided.
        sequences: sequences of the whole batch, wholly masked ones included.

    Returns:
        float32 [S].
    """
    steps = mask.shape[0]
    index = torch.arange(length.shape[0], device=length.device)
    sequence = torch.repeat_interleave(index, length, output_size=steps)
    tokens = torch.zeros(length.shape[0], device=mask.device).index_add(0, sequence, mask.float())
    return mask.float() / tokens.clamp(min=1.0)[sequence] / _denominator(sequences, mask)


def constant_weights(mask: Tensor, longest: int, sequences: float | Tensor) -> Tensor:
    """Sums over sequences, divided by a constant (Liu et al., "Dr. GRPO", 2025, arXiv:2503.20783).

    Args:
        mask: bool [S].
        longest: steps a sequence may have at most: a setting, never what a batch was padded to.
        sequences: sequences of the whole batch, wholly masked ones included.

    Returns:
        float32 [S].
    """
    return mask.float() / (longest * _denominator(sequences, mask))


def weighted_sum(term: Tensor, weight: Tensor) -> Tensor:
    """A scalar, differentiable: float [S] and float [S]; a term of weight 0 may be anything."""
    return torch.where(weight == 0.0, 0.0, term * weight).sum()


def _denominator(count: float | Tensor, like: Tensor) -> Tensor:
    """A count as float32, 1 instead of 0: a batch that is wholly masked has a loss of 0."""
    return torch.as_tensor(count, dtype=torch.float32, device=like.device).clamp(min=1.0)
