"""The pool as actors see it: who is in it, where their weights are, and how likely each is met."""

from collections.abc import Mapping

from pydantic import Field

from troupe.config import config
from troupe.jobs.spec import Job


@config
class Member:
    """An opponent: the weights of every policy at one moment of this run, or of another."""

    name: str
    versions: Mapping[str, int] = Field(default_factory=dict)
    """By policy: the version that is pinned. Empty for one of another run."""
    folder: str = ""
    """Of another run: the checkpoint that holds it."""
    policies: Mapping[str, str] = Field(default_factory=dict)
    """Of another run: by policy of this one, the name of the one that plays its seats there."""

    @property
    def version(self) -> int:
        """Of a pinned one, its age: what the first policies in it have been updated."""
        return min(self.versions.values())


@config
class Pool:
    """Who can be met, the oldest first."""

    version: int = 0
    """Of the weights that play against it, where that is prescribed."""
    members: tuple[Member, ...] = ()
    odds: Mapping[str, tuple[float, ...]] = Field(default_factory=dict)
    """By policy that is learning: the probability of each member."""


def place(job: Job, version: int) -> str:
    """The name on the board of the pool to be played against with a version of the weights.

    In lockstep each version has a pool of its own. Names are used again when nobody can want the
    pool of before any more: no actor is more than `lag` turns behind another.
    """
    return f"pool-{version % (job.lag + 3)}" if job.schedule == "lockstep" else "pool"
