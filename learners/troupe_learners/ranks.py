"""Learners that share every update: what they have to tell one another."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """All ranks of one learner, as one of them sees them."""

    rank: int = 0
    size: int = 1

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, [..] to [..]; the same on each."""
        return tensor

    def total(self, count: int) -> int:
        """The sum of a number over all ranks."""
        return count

    def share(self, count: int) -> int:
        """How many of `count` equal things are this rank's."""
        return (count + self.size - 1 - self.rank) // self.size
