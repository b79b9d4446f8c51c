"""Where runs can be sent to: one protocol for Ray clusters and Kubernetes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from troupe.errors import TroupeError
from troupe.jobs.spec import Job

ENDED = frozenset({"done", "stopped", "failed"})


class TargetError(TroupeError):
    """A target does not answer, or not as it should; the run there is none the worse for it."""


@dataclass(frozen=True, slots=True)
class Order:
    """A run to be started."""

    name: str
    job: Job
    text: str
    """The job file's, with overrides put over it."""
    extras: Sequence[Path] = ()
    """Files and folders that the job needs beside it."""


@dataclass(frozen=True, slots=True)
class RunState:
    """How a run on a target stands."""

    run: str
    state: str
    """pending, running, done, stopped, failed."""
    attempt: int = 1
    """Which start or resume this is."""
    message: str = ""
    """Of a run that waits or failed: why."""
    started: float = 0.0
    """Unix time; 0 before it."""
    ended: float = 0.0
    """Unix time; 0 before it."""

    @property
    def over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `doctor` looked at."""

    what: str
    good: bool
    told: str
    """How it is, and what to do where that is not good."""
    details: Mapping[str, object] = field(default_factory=dict)


class Target(Protocol):
    """Where runs can be sent to. Every call raises UserError for a mistake and TargetError for a fault."""

    @property
    def name(self) -> str:
        """As it was named on the command line."""
        ...

    def check(self, job: Job) -> None:
        """See that the job could be run here, as far as that can be known before."""
        ...

    def render(self, order: Order) -> str:
        """What would be sent for a run, for a person to read."""
        ...

    def submit(self, order: Order) -> None:
        """Start a run; refuses a name that is taken."""
        ...

    def resume(self, run: str, overrides: Sequence[str]) -> None:
        """Go on with a run that is over, from its newest checkpoint, with these overrides."""
        ...

    def runs(self) -> list[RunState]:
        """All runs that are known here, the newest last."""
        ...

    def state(self, run: str) -> RunState:
        """How one run stands."""
        ...

    def progress(self, run: str) -> str:
        """What its launcher said last of how far it has come; empty where that is not known."""
        ...

    def log(self, run: str, begin: int) -> Iterator[bytes]:
        """What the launcher said from the byte `begin` on, and what it says from now on.

        Ends, or raises TargetError, whenever the connection does; that tells nothing of the run.
        An empty piece means that nothing was said for a while.
        """
        ...

    def stop(self, run: str) -> None:
        """Ask a run to save and end; returns at once."""
        ...

    def scale(self, run: str, actors: int) -> None:
        """Have so many actors from now on."""
        ...

    def remove(self, run: str) -> None:
        """Forget a run that is over and all that belongs to it here; its folder stays."""
        ...

    def examine(self) -> Iterator[Finding]:
        """Look at all that a run would need, one after the other, until something is missing."""
        ...
