"""The actor: plays with the newest weights there are, or in turns, and pushes what it played."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import torch

from troupe.episodes import Episodes
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.store.lockstep import Place, Places
from troupe.store.replay import Outcome
from troupe.weights.client import Weights
from troupe.weights.errors import DamagedError, MissingError, UnreachableError
from troupe_actors import sources
from troupe_actors.opponents import RunBench
from troupe_actors.recorder import Author
from troupe_actors.selfplay import Player
from troupe_actors.tally import Tally

log = logging.getLogger("troupe.actor")

_WAIT_SECONDS = 0.5
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
            Session(self._setting, ends).run()


class Session:
    """One life of an actor."""

    def __init__(self, setting: WorkerSetting, ends: Connections) -> None:
        self._job = ends.job
        self._slot = setting.slot
        self._weights = ends.weights
        self._ends = ends
        self._background = ThreadPoolExecutor(1, "weights-fetch")
        self._coming: dict[str, Future[Weights]] = {}
        """Weights that were sent for, by policy."""
        self._stop = ends.reporter.stop
        self._metrics = ends.metrics
        self._tally = Tally(ends.metrics)
        author = Author(setting.name, ends.incarnation, ends.attempt)
        self._names = (setting.role, setting.slot, ends.attempt, ends.incarnation)
        self._bench = RunBench(ends) if ends.job.opponents is not None else None
        self._source = sources.create(ends.job, setting.slot, author, self._bench)

    def run(self) -> None:
        """See `Actor.run`."""
        with ExitStack() as stack:
            stack.callback(self._source.close)
            stack.callback(self._background.shutdown, wait=False, cancel_futures=True)
            if self._job.schedule == "lockstep":
                self._run_turns()
            else:
                self._run_freely()

    # Schedule async: with the newest weights there are.

    def _run_freely(self) -> None:
        if not self._wait_for_weights():
            return
        for played in self._source.stream(*self._names):
            self._tally.add(played)
            if not self._push(played.blocks) or self._stop.is_set():
                return
            self._refresh()

    def _wait_for_weights(self) -> bool:
        """Take the first weights of every policy; false if told to stop before they are there."""
        for player in self._source.players:
            if not self._wait(player, 0):
                return False
            self._load(player)
        return True

    def _refresh(self) -> None:
        """Swap in newer weights that have come, and send for those that have not.

        Meanwhile, and while they cannot be had, playing goes on with those that are here.
        """
        for player in self._source.players:
            policy = player.policy
            if policy not in self._coming:
                if self._weights.latest(policy) in (None, player.version):
                    continue
                if weights := self._weights.at_hand(policy):
                    self._take(player, weights)
                else:
                    self._coming[policy] = self._background.submit(self._weights.fetch, policy)
            elif self._coming[policy].done():
                try:
                    self._take(player, self._coming.pop(policy).result())
                except (DamagedError, MissingError, UnreachableError) as error:
                    self._metrics.add("weight_misses")
                    log.info("%s; trying again", error)

    # Schedule lockstep: turn t with exactly version t - lag.

    def _run_turns(self) -> None:
        places = Places(self._ends.store)
        first = self._wait_for_attempt(places)
        if first is None:
            return
        place = places.get(self._slot) or Place(first, b"")
        self._source.resume(place.state)
        turn, loaded = place.turn, -1
        while not self._stop.is_set():
            version = max(0, turn - self._job.lag)
            if version != loaded and not self._load_all(version):
                return
            loaded = version
            played = self._source.turn(turn)
            self._tally.add(played)
            if not self._push(played.blocks):
                return
            turn += 1
            # Behind the push: who dies between them plays the turn again, to the same blocks.
            places.put(self._slot, Place(turn, played.resume))

    def _wait_for_attempt(self, places: Places) -> int | None:
        """The first turn of this attempt, once the learner has said it; None if told to stop."""
        self._metrics.set("waiting_for", "the learner to begin")
        while (turn := places.announced(self._ends.attempt)) is None:
            if self._stop.wait(_LOOK_SECONDS):
                return None
        self._metrics.set("waiting_for", "")
        return turn

    def _load_all(self, version: int) -> bool:
        """Take exactly this version of every policy; false if told to stop before it is there."""
        for player in self._source.players:
            if not self._wait(player, version):
                return False
            self._load(player, version)
        return self._bench is None or self._bench.wait(version, self._stop)

    # Both.

    def _wait(self, player: Player, version: int) -> bool:
        """Wait for a version or a newer one; false if told to stop before it is there."""
        waited = False
        while self._weights.wait(player.policy, version - 1, _WAIT_SECONDS) is None:
            waited = True
            self._metrics.set("waiting_for", f"version {version} of {player.policy}")
            if self._stop.is_set():
                return False
        if waited:
            self._metrics.set("waiting_for", "")
        return True

    def _load(self, player: Player, version: int | None = None) -> None:
        self._take(player, self._weights.fetch(player.policy, version))

    def _take(self, player: Player, weights: Weights) -> None:
        player.acting.load(weights.tensors)
        player.version = weights.version
        self._metrics.add("weight_updates")
        self._metrics.set(f"version/{player.policy}", weights.version)

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
                case Outcome.STOPPED:
                    return False
        return True
