"""Drawing tokens: one uniform number for each, by the inverse of the cumulative distribution.

The numbers are a function of a request's key and the token's place alone, so that what is drawn
does not depend on what else runs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def uniform(key: NDArray[np.uint64], place: NDArray[np.int64]) -> NDArray[np.float32]:
    """Numbers of 24 bits in [0, 1): element `place` [n] of each key's SplitMix64 stream.

    Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014).
    """
    mixed = key + (place.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    for shift, factor in _MIX:
        mixed = (mixed ^ (mixed >> shift)) * factor
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


@dataclass(frozen=True, slots=True)
class Drawing:
    """How each of n rows draws. A part that no row needs is None."""

    temperature: Tensor | None
    """float32 [n, 1]."""
    greedy: Tensor | None
    """bool [n]: rows that take the likeliest token; their temperature is 1."""
    top_k: Tensor | None
    """int64 [n, 1]; the vocabulary where all tokens count."""
    top_p: Tensor | None
    """float32 [n, 1]; there if `top_k` is."""

    def draw(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens int64 [n] and their log-probabilities float32 [n], NaN if a row's logits are not finite.

        Args:
            logits: float32 [n, vocabulary], changed in place.
            uniform: float32 [n], in [0, 1).
        """
        if self.temperature is not None:
            logits /= self.temperature
        probs = torch.softmax(logits, 1)
        if self.top_k is not None and self.top_p is not None:
            probs = cut(probs, self.top_k, self.top_p)
        cumulated = probs.cumsum(1)
        # 24 bits below 1 times the sum round to less than the sum, so that the first place above
        # it always exists, and is never one that adds nothing.
        above = uniform.unsqueeze(1) * cumulated[:, -1:]
        token = torch.searchsorted(cumulated, above, right=True).clamp_(max=probs.shape[1] - 1)
        if self.greedy is not None:
            likeliest = probs.argmax(1, keepdim=True)
            token = torch.where(self.greedy.unsqueeze(1), likeliest, token)
        return token.squeeze(1), probs.gather(1, token).log_().squeeze(1)


def cut(probs: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """The likeliest tokens alone, [n, vocabulary], and their probabilities, which sum to 1 again.

    The first `top_k` [n, 1] count; of these the fewest that have `top_p` [n, 1] of what they have
    together.
    """
    ordered, order = probs.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(probs.shape[1], device=probs.device)
    ordered = ordered.where(rank < top_k, 0.0)
    before = ordered.cumsum(1) - ordered
    ordered = ordered.where(before < top_p * ordered.sum(1, keepdim=True), 0.0)
    ordered /= ordered.sum(1, keepdim=True)
    return torch.zeros_like(probs).scatter_(1, order, ordered)
