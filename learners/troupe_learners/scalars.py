"""Scalars to look at: left where they were computed, and read all at once."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from troupe_learners.ranks import Ranks


class Scalars:
    """By name, a scalar for each optimizer step that had one. Adding waits for no device."""

    def __init__(self) -> None:
        self._held: dict[str, list[Tensor]] = {}

    def add(self, name: str, value: Tensor) -> None:
        """One more value of this name."""
        self._held.setdefault(name, []).append(value)

    def add_all(self, values: Mapping[str, Tensor]) -> None:
        """One more value of each name."""
        for name, value in values.items():
            self._held.setdefault(name, []).append(value)

    def means(self, ranks: Ranks) -> dict[str, float]:
        """By name, the mean over the optimizer steps of what the ranks' values add up to."""
        if not self._held:
            return {}
        every = torch.stack([value for values in self._held.values() for value in values])
        flat = iter(ranks.add_up(every.float()).tolist())
        return {
            name: math.fsum(next(flat) for _ in values) / len(values)
            for name, values in self._held.items()
        }
