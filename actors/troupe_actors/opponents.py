"""Whom a policy plays against: at most tables the newest weights, at a share of them a member of the pool."""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from troupe import checkpoint
from troupe.config import parse
from troupe.episodes import Columns
from troupe.jobs.setting import Connections
from troupe.jobs.spec import OpponentSettings
from troupe.league.payoffs import Record, pack
from troupe.league.pool import Member, Pool, place
from troupe.weights.errors import DamagedError, MissingError, UnreachableError
from troupe_actors.selfplay import Player, Round

_LOOK_SECONDS = 0.05
_NEW_SECONDS = 1.0
"""How old a pool may become where none is prescribed."""
_GAMES = 64
"""That are begun against one opponent, or one a table, before it makes room for another."""
_EQUAL = 1e-6
"""Points closer than this are a draw."""
SETTLED = 2**31
"""Opponents explore as policies do in the end, whatever they did when they were young."""


class Bench(Protocol):
    """Where the pool and the weights of its members come from."""

    def pool(self) -> Pool:
        """The one to be played against now."""
        ...

    def weights(self, member: Member, policy: str) -> Columns | None:
        """What a member plays the seats of a policy with; none where that is not to be had now."""
        ...


class RunBench:
    """The run's own: the pool as the learner put it up, weights as they are pinned."""

    def __init__(self, ends: Connections) -> None:
        self._ends = ends
        self._in_lockstep = ends.job.schedule == "lockstep"
        self._pool = Pool()
        self._due = 0.0

    def wait(self, version: int, stop: threading.Event) -> bool:
        """Wait for the pool of a version; false if told to stop before it is there."""
        while not self._look(version):
            if stop.wait(_LOOK_SECONDS):
                return False
        return True

    def pool(self) -> Pool:
        """In lockstep the one that was waited for, else the newest."""
        now = time.monotonic()
        if not self._in_lockstep and now >= self._due:
            self._due = now + _NEW_SECONDS
            self._look(None)
        return self._pool

    def weights(self, member: Member, policy: str) -> Columns | None:
        """See `Bench`. In lockstep they have to be had.

        Raises:
            CheckpointError: the checkpoint of a named member is gone or damaged.
            WeightsError: in lockstep, pinned weights cannot be fetched.
        """
        if member.folder:
            return checkpoint.load_policy(Path(member.folder), member.policies[policy])
        try:
            return self._ends.weights.fetch(policy, member.versions[policy]).tensors
        except (DamagedError, MissingError, UnreachableError):
            if self._in_lockstep:
                raise
            self._ends.metrics.add("weight_misses")
            self._pool = Pool()  # nobody is drawn until the pool is looked at again
            return None

    def _look(self, version: int | None) -> bool:
        """Take this attempt's pool of a version, or any; false if it is not there."""
        document = self._ends.board.get(place(self._ends.job, version or 0))
        if document is None or document["attempt"] != self._ends.attempt:
            return False
        pool = parse(Pool, document["pool"])
        if version not in (None, pool.version):
            return False
        self._pool = pool
        return True


class Company(Protocol):
    """Who sits at the tables."""

    players: Sequence[Player]
    """Those who act, the policies that are learning before all others."""
    seating: NDArray[np.int64]
    """[T, seats]: as in `run_loop`."""

    def begin(self, random: np.random.Generator) -> None:
        """Seat everybody for new games, from a random stream of this company's own."""
        ...

    def take(self, played: Round) -> None:
        """Write down what came of games, and seat players for the next ones."""
        ...

    def tell(self, policy: str) -> bytes:
        """What came of a policy's games since the last time, packed; often nothing."""
        ...


class Selves:
    """The newest weights alone: every policy plays its own seats."""

    def __init__(self, players: Sequence[Player], tables: int) -> None:
        self.players = players
        self.seating = _own_seating(players, tables)

    def begin(self, random: np.random.Generator) -> None:
        """Nothing to be drawn."""

    def take(self, played: Round) -> None:
        """Nothing changes."""

    def tell(self, policy: str) -> bytes:
        """Nothing."""
        return b""


@dataclass(slots=True)
class _Chair:
    """Where one opponent of one policy sits, at several tables."""

    players: Sequence[Player]
    """One for each policy whose seats it may play."""
    games: int
    """That it begins before somebody else takes the chair."""
    policy: int = 0
    """Who it is an opponent of."""
    member: str = ""
    """Who it is; nobody where empty."""
    begun: int = 0
    """Games that it has begun."""
    going: int = 0
    """Those of them that have not ended."""

    @property
    def free(self) -> bool:
        """Whether it may begin a game."""
        return bool(self.member) and self.begun < self.games

    @property
    def done(self) -> bool:
        """Whether somebody else may take the chair."""
        return not self.free and not self.going


class Opponents:
    """Some tables are for one policy and a member of the pool.

    There the policy plays all of its seats, or one of them where it plays every seat, and the member
    all others. Members sit on chairs: each drawn alike from the pool, for so many games.
    """

    def __init__(
        self,
        settings: OpponentSettings,
        learning: Sequence[Player],
        opponents: Sequence[Sequence[Player]],
        tables: int,
        bench: Bench,
    ) -> None:
        """Everybody sits among the newest weights until `begin`.

        Args:
            learning: a player for each policy.
            opponents: for each chair, frozen players in the order of `learning`.
        """
        self._settings = settings
        self._learning = learning
        self._bench = bench
        self._chairs = [_Chair(players, max(_GAMES, tables)) for players in opponents]
        self.players: Sequence[Player] = [
            *learning,
            *(player for players in opponents for player in players),
        ]
        self.seating = _own_seating(learning, tables)
        self._own = self.seating[0].copy()
        self._chair = np.full(tables, -1)
        """[T]: whose table it is; -1 is that of the newest weights."""
        self._records: dict[str, dict[str, Record]] = {}
        """By policy and member."""
        self._random = np.random.default_rng(0)

    def begin(self, random: np.random.Generator) -> None:
        """See `Company`. Chairs are drawn anew."""
        self._random = random
        self._records = {player.policy: {} for player in self._learning}
        for chair in self._chairs:
            chair.going = 0
            self._draw(chair)
        self._seat(np.arange(len(self.seating)))

    def take(self, played: Round) -> None:
        """See `Company`."""
        if not played.finished.size:
            return
        self._write_down(played)
        for chair in self._chairs:
            if chair.done:
                self._draw(chair)
        self._seat(played.finished)

    def tell(self, policy: str) -> bytes:
        """See `Company`."""
        told, self._records[policy] = self._records[policy], {}
        return pack(told)

    def _draw(self, chair: _Chair) -> None:
        """Put an opponent that is drawn from the pool on a chair; nobody where the pool is empty."""
        pool = self._bench.pool()
        chair.begun = 0
        if not pool.members:
            chair.member = ""
            return
        policy = int(self._random.integers(len(self._learning)))
        odds = np.array(pool.odds[self._learning[policy].policy])
        member = pool.members[int(self._random.choice(len(odds), p=odds / odds.sum()))]
        if (policy, member.name) != (chair.policy, chair.member):
            chair.policy = policy
            chair.member = member.name if self._load(chair, member) else ""

    def _load(self, chair: _Chair, member: Member) -> bool:
        """Give a chair's players their weights; false where they are not to be had."""
        for number, player in enumerate(chair.players):
            if number == chair.policy and len(chair.players) > 1:
                continue  # those seats are the policy's own
            weights = self._bench.weights(member, player.policy)
            if weights is None:
                return False
            player.acting.load(weights)
        return True

    def _seat(self, tables: NDArray[np.int64]) -> None:
        """Seat players for a new game at these tables."""
        self.seating[tables] = self._own
        self._chair[tables] = -1
        for table in tables[self._random.random(len(tables)) < self._settings.share].tolist():
            free = [number for number, chair in enumerate(self._chairs) if chair.free]
            if not free:
                return
            number = free[int(self._random.integers(len(free)))]
            chair = self._chairs[number]
            chair.begun += 1
            chair.going += 1
            self._chair[table] = number
            mine = self._own == chair.policy
            if mine.all():
                mine = np.arange(len(mine)) == self._random.integers(len(mine))
            theirs = len(self._learning) * (1 + number) + self._own
            self.seating[table] = np.where(mine, self._own, theirs)

    def _write_down(self, played: Round) -> None:
        """Count games against members: who got more than the others at the table has won."""
        against = self._chair[played.finished]
        counted = against >= 0
        mine = self.seating[played.finished[counted]] < len(self._learning)
        payoff = played.payoff[counted].astype(np.float64)
        got = (payoff * mine).sum(1) / mine.sum(1)
        lead = got - (payoff * ~mine).sum(1) / (~mine).sum(1)
        for number in np.unique(against[counted]).tolist():
            chair, own = self._chairs[number], against[counted] == number
            won, lost = int((lead[own] > _EQUAL).sum()), int((lead[own] < -_EQUAL).sum())
            games = int(own.sum())
            record = Record(won, games - won - lost, lost, float(got[own].sum()))
            records = self._records[self._learning[chair.policy].policy]
            records[chair.member] = records.get(chair.member, Record()) + record
            chair.going -= games


def _own_seating(players: Iterable[Player], tables: int) -> NDArray[np.int64]:
    """[T, seats]: every player at its own seats."""
    own = {seat: number for number, player in enumerate(players) for seat in player.seats}
    return np.tile(np.array([own[seat] for seat in sorted(own)], np.int64), (tables, 1))
