"""What a learner of text tells the prompts in the store: which there are, and which are trained on."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from troupe.episodes import Episodes
from troupe.jobs.setting import Connections
from troupe.jobs.spec import TextSettings
from troupe.prompts.order import of_slot
from troupe.prompts.source import read
from troupe.store.prompt_progress import PromptProgress
from troupe.store.prompts import PromptStore, Rule
from troupe_learners.batches import Piece
from troupe_learners.limits import turn_groups
from troupe_learners.ranks import Ranks

Documents = Mapping[str, Mapping[str, object]]
"""Parts of a checkpoint, by name, as JSON can hold them."""

_DOCUMENT = "prompts"
_LOOK_SECONDS = 0.5


class Prompting(Protocol):
    """All ranks call its methods at the same time."""

    def restore(self, documents: Documents) -> None:
        """Let prompts be leased, from where a checkpoint has them; the log was restored before."""
        ...

    def consumed(self, pieces: Sequence[Piece]) -> None:
        """These were trained on and what came of it is published, or they were dropped."""
        ...

    def dump(self) -> Documents:
        """What a checkpoint is to keep, between two turns."""
        ...

    def now(self) -> Documents:
        """The same of a store that has lost its memory, as far as it is known here."""
        ...

    def exhausted(self, updates: int) -> bool:
        """Whether no prompts are left that could fill another batch, after so many updates."""
        ...


class NoPrompts:
    """`Prompting` where there are none."""

    def restore(self, documents: Documents) -> None:
        """Do nothing."""

    def consumed(self, pieces: Sequence[Piece]) -> None:
        """Do nothing."""

    def dump(self) -> Documents:
        """Nothing."""
        return {}

    def now(self) -> Documents:
        """Nothing."""
        return {}

    def exhausted(self, updates: int) -> bool:
        """Never."""
        return False


class StoredPrompts:
    """`Prompting` of a job's text."""

    def __init__(self, ends: Connections, text: TextSettings, ranks: Ranks) -> None:
        self._text = text
        self._ranks = ranks
        self._actors = ends.job.actors.count
        self._attempt = ends.attempt
        self._in_lockstep = ends.job.schedule == "lockstep"
        self._total: int | None = None
        """Prompts in all epochs, where those come to an end."""
        self._used = False
        """In lockstep, whether this rank's actors have no more prompts."""
        self._look_due = 0.0
        groups = turn_groups(text, ends.job.learner.count, ranks.rank)
        self._rule = (
            Rule(groups, ends.job.store.max_staleness) if not self._in_lockstep else Rule(0, 0)
        )
        self._store = PromptStore(ends.store, text.prompts, ends.job.seed, shards=ranks.size)

    def restore(self, documents: Documents) -> None:
        document = documents.get(_DOCUMENT)
        progress = None if document is None else PromptProgress.load(document)
        self._ranks.total(0)  # the logs of all are restored
        if self._ranks.first:
            prompts = read(self._text.prompts)
            self._total = (
                len(prompts) * self._text.prompts.epochs if self._text.prompts.epochs else None
            )
            self._store.load(prompts, self._attempt, progress)
        self._ranks.total(0)  # only now they are there
        self._store.restore(self._ranks.rank, self._rule, self._attempt, progress)

    def consumed(self, pieces: Sequence[Piece]) -> None:
        tickets = np.unique(np.concatenate([piece.block.group for piece in pieces]))
        self._store.consumed(self._ranks.rank, tickets.tolist())
        if self._in_lockstep and self._total is not None:
            self._used = all(self._next(piece.block) >= self._total for piece in pieces)

    def dump(self) -> Documents:
        return {_DOCUMENT: self._store.progress().dump()} if self._ranks.first else {}

    def exhausted(self, updates: int) -> bool:
        if self._total is None:
            return False
        if self._in_lockstep:
            return self._used or updates * self._text.groups >= self._total
        now = time.monotonic()
        if now < self._look_due:
            return False
        self._look_due = now + _LOOK_SECONDS
        state = self._store.state()
        return not state.ready and not state.leased and state.waiting < self._text.groups

    def now(self) -> Documents:
        return {_DOCUMENT: self._store.now().dump()}

    def _next(self, block: Episodes) -> float:
        """The ticket behind the last one that a block's actor answered or left out."""
        slot = int(block.actor.rpartition("-")[2])
        follow = of_slot(slot, self._actors, self._text.groups, int(block.resume))
        return next(follow, math.inf)


def create(ends: Connections, ranks: Ranks) -> Prompting:
    """What tells of a job's prompts."""
    return NoPrompts() if ends.job.text is None else StoredPrompts(ends, ends.job.text, ranks)
