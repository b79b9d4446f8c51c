"""The actor: plays with the newest weights there are, and pushes what it played to the store."""

import logging
import os
from collections.abc import Sequence

import torch

from troupe import seeding
from troupe.episodes import Episodes
from troupe.jobs.roles import policies_of
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.jobs.spec import Job
from troupe.policies import create_acting
from troupe.policies.devices import resolve_device, resolve_precision
from troupe.store.replay import Outcome
from troupe.weights.errors import DamagedError, MissingError, UnreachableError
from troupe_actors import games
from troupe_actors.games import Game
from troupe_actors.recorder import Author
from troupe_actors.selfplay import Epsilon, Player, run_loop

log = logging.getLogger("troupe.actor")

_WAIT_SECONDS = 0.5


class Actor:
    """The worker of role `actor`."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting

    def run(self) -> None:
        """Play until the run is told to stop, or a later attempt at it has begun.

        Raises:
            TroupeError: the store or the weight server is gone for good, or weights do not fit.
        """
        with self._setting.open() as ends:
            # Absolute, as this may run again in one process; never below what we were started with.
            os.setpriority(os.PRIO_PROCESS, 0, max(os.nice(0), ends.job.actors.niceness))
            torch.set_num_threads(1)
            Session(self._setting, ends).run()


class Session:
    """One life of an actor."""

    def __init__(self, setting: WorkerSetting, ends: Connections) -> None:
        self._ends = ends
        self._stop = ends.reporter.stop
        self._metrics = ends.metrics
        self._author = Author(setting.name, ends.incarnation, ends.attempt)
        self._names = (setting.role, setting.slot, ends.attempt, ends.incarnation)
        game = games.load(ends.job.game.name, ends.job.game.rules)
        seed = seeding.key(ends.job.seed, *self._names, "deals")
        self._tables = game.tables(ends.job.actors.tables, seed)
        self._players = make_players(ends.job, game)

    def run(self) -> None:
        """See `Actor.run`."""
        if not self._wait_for_weights():
            return
        settings = self._ends.job.actors
        rounds = run_loop(
            self._tables,
            self._players,
            seeding.stream(self._ends.job.seed, *self._names, "moves"),
            epsilon=Epsilon(settings.epsilon, settings.epsilon_start, settings.epsilon_decay),
            block_steps=settings.block_steps,
            author=self._author,
        )
        decisions, forced = self._tables.decisions, self._tables.forced
        for played in rounds:
            self._metrics.add("decisions", self._tables.decisions - decisions)
            self._metrics.add("forced", self._tables.forced - forced)
            self._metrics.add("episodes", played.episodes)
            decisions, forced = self._tables.decisions, self._tables.forced
            if not self._push(played.blocks) or self._stop.is_set():
                return
            self._refresh()

    def _wait_for_weights(self) -> bool:
        """Take the first weights of every policy; false if told to stop before they are there."""
        for player in self._players:
            self._metrics.set("waiting_for", f"the first weights of {player.policy}")
            while self._ends.weights.wait(player.policy, -1, _WAIT_SECONDS) is None:
                if self._stop.is_set():
                    return False
            self._load(player)
        self._metrics.set("waiting_for", "")
        return True

    def _refresh(self) -> None:
        """Swap in newer weights. While they cannot be had, playing goes on with those that are here."""
        for player in self._players:
            if self._ends.weights.latest(player.policy) not in (None, player.version):
                try:
                    self._load(player)
                except (DamagedError, MissingError, UnreachableError) as error:
                    self._metrics.add("weight_misses")
                    log.info("%s; trying again", error)

    def _load(self, player: Player) -> None:
        weights = self._ends.weights.fetch(player.policy)
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


def make_players(job: Job, game: Game) -> list[Player]:
    """Every policy of the job, with the seats that it plays; weights are still to be loaded."""
    device = resolve_device(job.actors.device, prefer_gpu=False)
    precision = resolve_precision(job.actors.precision, device)
    return [
        Player(
            policy=policy,
            seats=tuple(
                i for i, seat in enumerate(game.seats) if job.policies.get(seat, seat) == policy
            ),
            spaces=spaces,
            acting=create_acting(spaces, job.network, device, precision),
        )
        for policy, spaces in policies_of(job).items()
    ]
