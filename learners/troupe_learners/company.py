"""Actors of the learner's own: no block of theirs passes through the store.

Without a lag each turn is played in this process when the learner is ready for it: nothing travels,
nobody waits, and processor caches stay warm. With a lag a turn is played beside, while the learner
learns from the one before. What is learned is the same to the bit as with actors in the run's care.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from troupe.checkpoint import Position
from troupe.episodes import Columns
from troupe.jobs.stages import Stage
from troupe.store.replay import Taken
from troupe_learners.algorithms import Algorithm
from troupe_learners.turns import Turns


class Company:
    """Fills the feed in place of an `Intake`.

    Args:
        stages: opens the actors, by slot.
        turns: where blocks go.
        learners: by policy, the algorithm that learns from its blocks.
        weights: a policy's version, which it still has for as long as turns are played with it.
        turn: the first to be played.
        lag: turn t is played with version t - lag.
        resume: by slot, the state to go on from.
    """

    def __init__(
        self,
        stages: AbstractContextManager[Mapping[int, Stage]],
        turns: Turns,
        learners: Mapping[str, Algorithm],
        weights: Callable[[str, int], Columns],
        *,
        turn: int,
        lag: int,
        resume: Mapping[int, bytes],
    ) -> None:
        self.checkpoint_wanted = threading.Event()
        """Never set: the store holds nothing of ours."""
        self.emptied = threading.Event()
        """Never set."""
        self._opening = stages
        self._turns = turns
        self._learners = learners
        self._weights = weights
        self._turn = turn
        self._lag = lag
        self._resume = resume
        self._loaded = -1
        self._begun = False
        self._played = 0

    def __enter__(self) -> "Company":
        self._stages = self._opening.__enter__()
        for slot, stage in self._stages.items():
            stage.resume(self._resume.get(slot, b""))
        return self

    def __exit__(self, *exception: object) -> None:
        self._opening.__exit__(None, None, None)

    def resume(self, position: Position) -> None:
        """Nothing: what is played here is not in the store."""

    def gather(self) -> None:
        """Hand over the next turn, unless one waits to be learned from; with a lag, begin another."""
        if self._turns.ready(0):
            return
        if not self._begun:
            self._begin()
        for stage in self._stages.values():
            for block in stage.played():
                self._played += 1
                taken = Taken(f"0-{self._played}", block, block.nbytes)
                self._turns.put(taken, self._learners[block.policy].credit(block))
        self._turn += 1
        self._begun = False
        if self._lag:
            self._begin()

    def _begin(self) -> None:
        """Begin the turn that comes next; the version that it is played with is there."""
        self._load(max(0, self._turn - self._lag))
        for stage in self._stages.values():
            stage.begin(self._turn)
        self._begun = True

    def _load(self, version: int) -> None:
        if version == self._loaded:
            return
        for policy in self._learners:
            tensors = self._weights(policy, version)
            for stage in self._stages.values():
                stage.load(policy, version, tensors)
        self._loaded = version
