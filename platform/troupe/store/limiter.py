"""How far inserting and sampling may run apart: the rate limiter's rule and its settings.

The rule is Reverb's (Cassirer et al., 2021, "Reverb: A Framework for Experience Replay"). It is
decided inside the store (`functions.lua`); here it stands for people to read and tests to compare.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from troupe.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """All sizes are in steps. With d = inserts * samples_per_insert - samples, d stays in bounds."""

    samples_per_insert: float = 1.0
    """How often each step is sampled on average."""
    min_size: int = 1
    """Sampling waits for this many steps in the log."""
    min_diff: float = 0.0
    """Sampling waits rather than let d fall below this."""
    max_diff: float
    """Inserting waits rather than let d rise above this."""

    @classmethod
    def queue(cls, capacity: int) -> "RateLimit":
        """Each step once; at most `capacity` wait."""
        return cls(max_diff=capacity)

    def check(self, *, block: int = 1, batch: int = 1) -> None:
        """See that inserting `block` steps and sampling `batch` steps can never both be refused.

        Raises:
            UserError: they can, and the run would stand still.
        """
        numbers = (self.samples_per_insert, self.min_diff, self.max_diff)
        if (
            not all(map(math.isfinite, numbers))
            or self.samples_per_insert <= 0
            or self.min_size < 1
        ):
            raise UserError(f"store: {self} must have finite bounds, and sizes above 0")
        whole = all(float(number).is_integer() for number in numbers)
        room = block * self.samples_per_insert + batch - (1 if whole else 0)
        if self.max_diff - self.min_diff < room:
            raise UserError(
                f"store: the limiter leaves {self.max_diff - self.min_diff:,.10g} steps between "
                f"sampling and inserting, but blocks of {block:,} steps and batches of {batch:,} need "
                f"{room:,.10g}, or both sides may wait for ever: raise the capacity"
            )
        filling = (self.min_size - 1 + block) * self.samples_per_insert
        if self.max_diff < filling:
            raise UserError(
                f"store: inserting stops at {self.max_diff:,.10g} steps before sampling may begin at "
                f"min_size={self.min_size:,}; raise the capacity to {filling:,.10g} or more"
            )


class Counters(NamedTuple):
    """What has happened to a log, in steps."""

    inserts: int
    samples: int
    deletes: int


def may_insert(rate: RateLimit, at: Counters, steps: int) -> bool:
    """Whether `steps` more may be inserted now."""
    inserts = at.inserts + steps
    filling = inserts - at.deletes <= rate.min_size
    return filling or inserts * rate.samples_per_insert - at.samples <= rate.max_diff


def may_sample(rate: RateLimit, at: Counters, steps: int) -> bool:
    """Whether `steps` may be sampled now."""
    filled = at.inserts - at.deletes >= rate.min_size
    return filled and at.inserts * rate.samples_per_insert - at.samples - steps >= rate.min_diff
