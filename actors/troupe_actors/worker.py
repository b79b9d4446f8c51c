"""The actor: plays with the newest weights there are, or in turns, and pushes what it played."""

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import torch

from troupe.episodes import Episodes
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.store.lockstep import Place, Places
from troupe.store.replay import Outcome
from troupe.weights.client import Weights
from troupe_actors import sources
from troupe_actors.following import Following
from troupe_actors.opponents import RunBench
from troupe_actors.recorder import Author
from troupe_actors.selfplay import Player
from troupe_actors.tally import Tally

log = logging.getLogger("troupe.actor")

_LOOK_SECONDS = 0.05


class Actor:
    """The worker of role `actor`."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting

    def run(self) -> None:
        """Play until the run is told to stop, or a later attempt at it has begun.

        Raises:
            TroupeError: the store or the weight server is gone for good, weights do not fit, or what
                is played always fails.
        """
        with self._setting.open() as ends:
            # Absolute, as this may run again in one process; never below what we were started with.
            os.setpriority(os.PRIO_PROCESS, 0, max(os.nice(0), ends.job.actors.niceness))
            torch.set_num_threads(1)
            if ends.job.text is None:
                Session(self._setting, ends).run()
            else:
                from troupe_actors.text import (
                    TextSession,  # imports transformers, which takes seconds
                )

                TextSession(self._setting, ends, ends.job.text).run()


class Session:
    """One life of an actor that plays."""

    def __init__(self, setting: WorkerSetting, ends: Connections) -> None:
        self._job = ends.job
        self._slot = setting.slot
        self._ends = ends
        self._stop = ends.reporter.stop
        self._metrics = ends.metrics
        self._tally = Tally(ends.metrics)
        author = Author(setting.name, ends.incarnation, ends.attempt)
        self._names = (setting.role, setting.slot, ends.attempt, ends.incarnation)
        self._bench = RunBench(ends) if ends.job.opponents is not None else None
        self._source = sources.create(ends.job, setting.slot, author, self._bench)
        self._following = Following(
            ends, {player.policy: partial(_take, player) for player in self._source.players}
        )

    def run(self) -> None:
        """See `Actor.run`."""
        with ExitStack() as stack:
            stack.callback(self._source.close)
            stack.callback(self._following.close)
            if self._job.schedule == "lockstep":
                self._run_turns()
            else:
                self._run_freely()

    def _run_freely(self) -> None:
        """With the newest weights there are."""
        if not self._following.first():
            return
        for played in self._source.stream(*self._names):
            self._tally.add(played)
            if not self._push(played.blocks) or self._stop.is_set():
                return
            self._following.refresh()

    def _run_turns(self) -> None:
        """Turn t with exactly version t - lag."""
        places = Places(self._ends.store)
        first = first_turn(places, self._ends)
        if first is None:
            return
        place = places.get(self._slot) or Place(first, b"")
        self._source.resume(place.state)
        turn = place.turn
        while not self._stop.is_set():
            if not self._load(max(0, turn - self._job.lag)):
                return
            played = self._source.turn(turn)
            self._tally.add(played)
            if not self._push(played.blocks):
                return
            turn += 1
            # Behind the push: who dies between them plays the turn again, to the same blocks.
            places.put(self._slot, Place(turn, played.resume))

    def _load(self, version: int) -> bool:
        """Take exactly this version, and its opponents; false if told to stop before they are there."""
        if not self._following.exactly(version):
            return False
        return self._bench is None or self._bench.wait(version, self._stop)

    def _push(self, blocks: Sequence[Episodes]) -> bool:
        """Send blocks, waiting for room in the store; false if it is time to end."""
        if not blocks:
            return True
        pushes = self._ends.replay.push_many(blocks, self._stop)
        self._metrics.add("blocked_seconds", max(push.waited for push in pushes))
        for block, push in zip(blocks, pushes, strict=True):
            match push.outcome:
                case Outcome.PUSHED:
                    self._metrics.add("blocks")
                    self._metrics.add("steps", block.steps)
                case Outcome.STALE:
                    self._metrics.add("stale_blocks")
                case Outcome.FENCED:
                    log.warning("a later attempt at this run has begun; this actor ends")
                    return False
                case _:
                    return False
        return True


def first_turn(places: Places, ends: Connections) -> int | None:
    """The first turn of this attempt, once the learner has said it; None if told to stop."""
    ends.metrics.set("waiting_for", "the learner to begin")
    while (turn := places.announced(ends.attempt)) is None:
        if ends.reporter.stop.wait(_LOOK_SECONDS):
            return None
    ends.metrics.set("waiting_for", "")
    return turn


def _take(player: Player, weights: Weights) -> None:
    player.acting.load(weights.tensors)
    player.version = weights.version
