"""Actors of the learner's own, where a job wants them there: the two sides meet here, by name."""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from troupe.episodes import Columns, Episodes
from troupe.errors import TroupeError
from troupe.jobs.setting import Connections
from troupe.metrics import Metrics, Reporter


class StageLostError(TroupeError):
    """The process that an actor slot is played in has ended."""


class Stage(Protocol):
    """One actor slot, in lockstep, at the learner's side."""

    def resume(self, state: bytes) -> None:
        """Take up turns where `state` says, see `Episodes.resume`; the empty one is the beginning."""
        ...

    def load(self, policy: str, version: int, tensors: Columns) -> None:
        """Play on with this version of a policy."""
        ...

    def begin(self, turn: int) -> None:
        """Play one turn, beside whatever the caller does meanwhile."""
        ...

    def played(self) -> Sequence[Episodes]:
        """What came of the turn that was begun, once it is over: one block of every policy.

        Raises:
            UserError, TroupeError: it cannot be played.
            StageLostError: nobody plays it any more.
        """
        ...

    def close(self) -> None:
        """Let go of what it plays."""
        ...


@contextmanager
def open_stages(ends: Connections, slots: Iterable[int]) -> Iterator[dict[int, Stage]]:
    """Set up these slots of the job's actors, each told of here under its own name.

    Raises:
        UserError, TroupeError: what is played is not to be had.
    """
    make = importlib.import_module("troupe_actors.colocated").Stage
    with ExitStack() as stack:
        stages: dict[int, Stage] = {}
        for slot in slots:
            metrics = Metrics()
            stages[slot] = make(ends.job, slot, ends.attempt, ends.incarnation, metrics)
            stack.callback(stages[slot].close)
            reporter = Reporter(metrics, ends.board, f"actor-{slot}", alone=False)
            stack.enter_context(reporter)
        yield stages
