"""All that a run knows of its league: who is in the pool, who won against whom, who is how strong."""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from troupe.config import config, dump, parse
from troupe.jobs.spec import OpponentSettings
from troupe.league import matchmaking
from troupe.league.payoffs import Entry, PayoffTable, Record
from troupe.league.pool import Member, Pool
from troupe.league.ratings import Rating, rate

DECAY = 0.5
"""What a game of a span counts for win rates, relative to one of the span behind it."""


@config
class Saved:
    """A league as JSON can hold it."""

    members: tuple[Member, ...] = ()
    """Those that are pinned."""
    spans: tuple[int, ...] = (0,)
    tables: Mapping[str, tuple[Entry, ...]] = Field(default_factory=dict)
    anchors: Mapping[str, tuple[str, float]] = Field(default_factory=dict)


class League:
    """The pool, and a payoff table for each policy that is learning.

    Where a policy learns it is another one every moment. So its games are kept by *span*: from the
    version at which a member was pinned up to the next. Each span and each member has a rating.
    """

    def __init__(
        self, settings: OpponentSettings, policies: Sequence[str], named: Sequence[Member] = ()
    ) -> None:
        """Begin with the members that other runs have.

        Args:
            settings: when a member is added, how many stay, and how they are drawn.
            policies: those that are learning, in order.
            named: members that stay for good.
        """
        self._settings = settings
        self._named = tuple(named)
        self.policies = tuple(policies)
        self.pinned: list[Member] = []
        """The oldest first."""
        self._spans = [0]
        """The versions that spans begin with, the newest first."""
        self._tables = {policy: PayoffTable() for policy in policies}
        self._anchors: dict[str, tuple[str, float]] = {}
        """By policy: the oldest pinned member and its rating, which every other is measured from."""

    @property
    def members(self) -> tuple[Member, ...]:
        """All that can be met, the oldest first."""
        return (*self._named, *self.pinned)

    @property
    def span(self) -> str:
        """The present one, as the payoff tables call it."""
        return _span(self._spans[0])

    def due(self, version: int) -> bool:
        """Whether weights of this version are to be pinned."""
        return not self.pinned or version >= self.pinned[-1].version + self._settings.every

    def admit(self, versions: Mapping[str, int]) -> None:
        """Add weights that are pinned now; the oldest goes when there are too many."""
        version = min(versions.values())
        name = next(iter(versions)) if len(versions) == 1 else "all"
        self.pinned.append(Member(name=f"{name}@{version}", versions=dict(versions)))
        if version != self._spans[0]:
            self._spans.insert(0, version)
        if len(self.pinned) == 1:
            self._anchors = dict.fromkeys(self.policies, (self.pinned[0].name, 0.0))
        while len(self.pinned) > self._settings.keep:
            self._drop_oldest()

    def hear(self, policy: str, records: Mapping[str, Record]) -> None:
        """Take in what a policy's games came to, by opponent; of who is gone, nothing."""
        known = {member.name for member in self.members}
        for name, record in records.items():
            if name in known:
                self._tables[policy].add(self.span, name, record)

    def pool(self, version: int) -> Pool:
        """What actors are to know."""
        odds = {policy: self._odds(policy) for policy in self.policies if self.members}
        return Pool(version=version, members=self.members, odds=odds)

    def recent(self, policy: str, member: str) -> Record:
        """How the policy has fared against a member lately: games count less the older their span."""
        spans = [_span(version) for version in self._spans]
        return self._tables[policy].recent(spans, member, DECAY)

    def total(self, policy: str, member: str | None = None) -> Record:
        """All games against a member that are remembered, or against all, in the present span only."""
        table = self._tables[policy]
        if member is not None:
            return table.recent([_span(version) for version in self._spans], member)
        records = (table.record(self.span, member.name) for member in self.members)
        return sum(records, Record())

    def payoffs(self, policy: str) -> tuple[Entry, ...]:
        """A policy's payoff table: by span and member."""
        return self._tables[policy].entries()

    def ratings(self, policy: str) -> dict[str, Rating]:
        """By member and span, those that can be compared with the oldest pinned member."""
        if policy not in self._anchors:
            return {}
        name, elo = self._anchors[policy]
        return rate(self._tables[policy].pairs(), name, at=elo)

    def dump(self) -> dict[str, object]:
        """All of it, for a checkpoint."""
        tables = {policy: table.entries() for policy, table in self._tables.items()}
        return dump(
            Saved(
                members=tuple(self.pinned),
                spans=tuple(self._spans),
                tables=tables,
                anchors=self._anchors,
            )
        )

    def restore(self, document: Mapping[str, object]) -> None:
        """Go on from what `dump` gave; of members that are named no more, nothing is left."""
        saved = parse(Saved, document)
        self.pinned = list(saved.members)
        self._spans = list(saved.spans)
        self._anchors = dict(saved.anchors)
        known = {member.name for member in self.members}
        for policy in self.policies:
            entries = saved.tables.get(policy, ())
            self._tables[policy] = PayoffTable([entry for entry in entries if entry[1] in known])

    def _odds(self, policy: str) -> tuple[float, ...]:
        members = self.members
        match self._settings.sampling:
            case "uniform":
                odds = matchmaking.uniform(len(members))
            case "newest":
                odds = matchmaking.newest(len(members))
            case "pfsp":
                rates = [self.recent(policy, member.name).win_rate() for member in members]
                odds = matchmaking.pfsp(rates, self._settings.weighting)
        return tuple(np.asarray(odds).tolist())

    def _drop_oldest(self) -> None:
        """Ratings are measured from the next oldest from now on, which keeps the one it has."""
        heir = self.pinned[1].name
        for policy, (_, elo) in self._anchors.items():
            rated = self.ratings(policy).get(heir)
            self._anchors[policy] = (heir, elo if rated is None else rated.elo)
        gone = self.pinned.pop(0)
        forgotten = [version for version in self._spans if version < self.pinned[0].version]
        self._spans = [version for version in self._spans if version not in forgotten]
        for table in self._tables.values():
            for name in (gone.name, *map(_span, forgotten)):
                table.forget(name)


def _span(version: int) -> str:
    return f"from {version}"
