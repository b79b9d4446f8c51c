"""The learner's part in the league: it pins weights, keeps the pool and the payoffs, and tells of both."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from troupe.config import dump, parse
from troupe.jobs.setting import Connections
from troupe.jobs.spec import OpponentSettings
from troupe.league import named
from troupe.league.payoffs import unpack
from troupe.league.pool import Pool, place
from troupe.league.state import League
from troupe.weights.errors import MissingError
from troupe_learners.batches import Piece
from troupe_learners.ranks import Ranks

_DOCUMENT = "league"
_LINE = b"\n"
"""Ends a result, which is in JSON."""
_PAST = "pools"
_EVERY = 1.0
"""Seconds between two looks at ratings, and where nothing is prescribed between two pools."""

Documents = Mapping[str, Mapping[str, object]]


class Keeper(Protocol):
    """Who keeps the league of a run, in the order in which a turn calls."""

    def admit(self, settle: Callable[[], None]) -> None:
        """Let the newest published weights join the pool, if it is time; `settle` waits until they
        are published.

        Raises:
            WeightsError: they cannot be pinned.
        """
        ...

    def hear(self, policy: str, results: Iterable[bytes]) -> None:
        """Take in what came of the games that a policy is about to learn from."""
        ...

    def announce(self, policy: str, version: int) -> None:
        """Tell actors of the pool, just before they are given these weights."""
        ...

    def dump(self) -> Documents:
        """What a checkpoint keeps of it."""
        ...

    def restore(self, documents: Documents) -> None:
        """Go on from what a checkpoint kept; nothing is the beginning."""
        ...


class Nobody:
    """Where a policy only ever plays against the newest weights."""

    def admit(self, settle: Callable[[], None]) -> None:
        """Do nothing."""

    def hear(self, policy: str, results: Iterable[bytes]) -> None:
        """Do nothing."""

    def announce(self, policy: str, version: int) -> None:
        """Do nothing."""

    def dump(self) -> Documents:
        """Nothing."""
        return {}

    def restore(self, documents: Documents) -> None:
        """Do nothing."""


def results(pieces: Sequence[Piece], ranks: Ranks) -> list[bytes]:
    """What came of games, as actors sent it with their blocks, of all ranks for the first.

    What a block brings is heard with the first of its steps, and once.
    """
    own = [
        piece.block.resume
        for piece in pieces
        if piece.fresh and (piece.rows is None or piece.rows.start == 0)
    ]
    return [result for part in ranks.gather(_LINE.join(own)) for result in part.split(_LINE)]


def create(ends: Connections, policies: Sequence[str]) -> Keeper:
    """Who keeps the league of a job, of policies in the order in which they are trained.

    Raises:
        UserError: a named opponent is not there any more, or does not fit.
    """
    settings = ends.job.opponents
    if settings is None:
        return Nobody()
    return PoolKeeper(ends, settings, policies)


class PoolKeeper:
    """Keeps a pool of weights that are pinned at the weight server.

    In lockstep the pool of a version is put up before its weights are published, and never changes.
    """

    def __init__(
        self, ends: Connections, settings: OpponentSettings, policies: Sequence[str]
    ) -> None:
        """See `create`."""
        self._job = ends.job
        self._attempt = ends.attempt
        self._in_lockstep = ends.job.schedule == "lockstep"
        self.league = League(settings, policies, named.members(ends.job))
        self._board = ends.board
        self._weights = ends.weights
        self._metrics = ends.metrics
        self._stop = ends.reporter.stop
        self._published: dict[str, int] = {}
        """By policy: the newest version that was handed over to be published."""
        self._past: deque[Pool] = deque(maxlen=ends.job.lag + 1)
        """In lockstep, the pools that are still to be played against."""
        self._due = 0.0
        self._told = 0.0

    def admit(self, settle: Callable[[], None]) -> None:
        """See `Keeper`."""
        versions = self._published
        if len(versions) < len(self.league.policies) or not self.league.due(min(versions.values())):
            return
        settle()
        if self._stop.is_set():
            return  # the newest may not have been published; they join when the run goes on
        try:
            for policy, version in versions.items():
                self._weights.pin(policy, version)
        except MissingError:
            if self._in_lockstep:
                raise
            self._metrics.add("pin_misses")  # a learner that died had come further
            return
        self.league.admit(versions)
        self._metrics.set("pool", len(self.league.members))
        self._due = 0.0

    def hear(self, policy: str, results: Iterable[bytes]) -> None:
        """See `Keeper`."""
        for result in results:
            self.league.hear(policy, unpack(result))
        self._tell()

    def announce(self, policy: str, version: int) -> None:
        """See `Keeper`."""
        self._published[policy] = version
        if len(self._published) < len(self.league.policies):
            return
        version = min(self._published.values())
        if not self._in_lockstep:
            self._put_now_and_then(version)
        elif not self._past or version > self._past[-1].version:
            self._past.append(self.league.pool(version))
            self._put(self._past[-1])

    def dump(self) -> Documents:
        """See `Keeper`."""
        return {
            _DOCUMENT: self.league.dump(),
            _PAST: {str(pool.version): dump(pool) for pool in self._past},
        }

    def restore(self, documents: Documents) -> None:
        """See `Keeper`."""
        if _DOCUMENT in documents:
            self.league.restore(documents[_DOCUMENT])
        past = documents.get(_PAST, {}).values()
        self._past.extend(sorted((parse(Pool, pool) for pool in past), key=lambda p: p.version))
        for pool in self._past:
            self._put(pool)
        self._metrics.set("pool", len(self.league.members))

    def _put_now_and_then(self, version: int) -> None:
        """Again and again, as a store may lose its memory."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _EVERY
            self._put(self.league.pool(version))

    def _put(self, pool: Pool) -> None:
        document = {"attempt": self._attempt, "pool": dump(pool)}
        self._board.put(place(self._job, pool.version), document)

    def _tell(self) -> None:
        """Ratings, and how the policies fare; where a span has just begun, those of before stay."""
        now = time.monotonic()
        if now < self._told + _EVERY:
            return
        self._told = now
        for policy in self.league.policies:
            record = self.league.total(policy)
            if record.games:
                self._metrics.set(f"pool_win_rate/{policy}", record.win_rate(prior=0.0))
            rating = self.league.ratings(policy).get(self.league.span)
            if rating is not None:
                self._metrics.set(f"elo/{policy}", rating.elo)
                self._metrics.set(f"elo_low/{policy}", rating.low)
                self._metrics.set(f"elo_high/{policy}", rating.high)
