"""How ranks come by one gradient, from each one's share of a loss."""

from typing import Protocol

from troupe_learners.optim import FlatOptimizer, Optimizer
from troupe_learners.ranks import Ranks


class Exchange(Protocol):
    """All ranks call its methods in the same order."""

    def passes(self, count: int) -> int:
        """How often this rank is to pass something through the policy, where it has to `count` times.

        Whatever is more than that is to change nothing.
        """
        ...

    def before(self, *, last: bool) -> None:
        """A micro-batch is about to be passed through, maybe the last one of an optimizer step."""
        ...

    def after(self, optimizer: Optimizer) -> None:
        """The gradient of this rank's share is there; now that of the whole loss."""
        ...


class Copies:
    """`Exchange` where every rank has all parameters: gradients are added up when they are there."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def passes(self, count: int) -> int:
        """No more: none waits for another before the end."""
        return count

    def before(self, *, last: bool) -> None:
        """Do nothing."""

    def after(self, optimizer: Optimizer) -> None:
        """Add up."""
        assert isinstance(optimizer, FlatOptimizer)
        self._ranks.add_up_gradient(optimizer.grad)
