"""The actor: plays with the newest weights, and pushes what was played to the store."""

import os

import torch

from troupe import policies, seeding
from troupe.episodes import Episodes
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.policies.devices import resolve_device, resolve_precision
from troupe.store.replay import Outcome
from troupe_actors import games
from troupe_actors.recorder import Author
from troupe_actors.selfplay import Player, run_loop

_WAIT_SECONDS = 0.5


class Actor:
    """The worker of role `actor`."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting

    def run(self) -> None:
        """Play until the run is told to stop, or a newer attempt has taken over.

        Raises:
            TroupeError: the store or the weight server is gone for good.
        """
        torch.set_num_threads(1)
        with self._setting.open() as ends:
            os.setpriority(os.PRIO_PROCESS, 0, ends.job.actors.niceness)
            Session(self._setting, ends).run()


class Session:
    """One life of an actor."""

    def __init__(self, setting: WorkerSetting, ends: Connections) -> None:
        job = ends.job
        self._ends = ends
        life = (job.seed, setting.name, ends.attempt, ends.incarnation)
        self._author = Author(setting.name, ends.incarnation, ends.attempt)
        self._random = seeding.stream(*life)
        self._game = games.load(job.game.name, job.game.rules)
        self._tables = self._game.tables(job.actors.tables, seeding.key(*life, "deals"))
        self._players = _players(ends, self._game)
        self._counted: dict[str, int] = {}

    def run(self) -> None:
        """See `Actor.run`."""
        if not self._wait_for_weights():
            return
        settings = self._ends.job.actors
        rounds = run_loop(
            self._tables,
            self._players,
            self._random,
            epsilon=settings.epsilon,
            block_steps=settings.block_steps,
            author=self._author,
        )
        for blocks in rounds:
            self._count()
            if self._ends.reporter.stop.is_set() or not all(map(self._push, blocks)):
                return
            self._renew()

    def _wait_for_weights(self) -> bool:
        """Take the first weights of every policy; false where the run was told to stop before."""
        for player in self._players:
            while self._ends.weights.wait(player.policy, -1, _WAIT_SECONDS) is None:
                if self._ends.reporter.stop.is_set():
                    return False
            self._load(player)
        return True

    def _renew(self) -> None:
        """Take newer weights where there are some."""
        for player in self._players:
            newest = self._ends.weights.latest(player.policy)
            if newest is not None and newest > player.version:
                self._load(player)

    def _load(self, player: Player) -> None:
        weights = self._ends.weights.fetch(player.policy)
        player.acting.load(weights.tensors)
        player.version = weights.version
        self._ends.metrics.add("weight_updates")
        self._ends.metrics.set(f"version/{player.policy}", weights.version)

    def _push(self, block: Episodes) -> bool:
        """Send a block off, waiting for room; false where this actor is to end."""
        metrics = self._ends.metrics
        pushed = self._ends.replay.push(block, self._ends.reporter.stop)
        metrics.add("blocked_seconds", pushed.waited)
        match pushed.outcome:
            case Outcome.PUSHED:
                metrics.add("blocks")
                metrics.add("steps", block.steps)
                metrics.add("episodes", block.fragments)
            case Outcome.STALE:
                metrics.add("stale_blocks")
            case Outcome.FENCED | Outcome.STOPPED:
                return False
        return True

    def _count(self) -> None:
        """Tell how many moves were made since last time."""
        for name, total in (("decisions", self._tables.decisions), ("forced", self._tables.forced)):
            self._ends.metrics.add(name, total - self._counted.get(name, 0))
            self._counted[name] = total


def _players(ends: Connections, game: games.Game) -> list[Player]:
    """One for each policy; seats that share a policy are played by one."""
    settings = ends.job.actors
    device = resolve_device(settings.device, prefer_gpu=False)
    precision = resolve_precision(settings.precision, device)
    seats: dict[str, list[int]] = {}
    for index, seat in enumerate(game.seats):
        seats.setdefault(ends.job.policies.get(seat, seat), []).append(index)
    return [
        Player(
            policy,
            tuple(played),
            spaces := game.spaces(played[0]),
            policies.create_acting(spaces, ends.job.network, device, precision),
        )
        for policy, played in seats.items()
    ]
