"""What came of games: counts and points, by who played and against whom."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Entry = tuple[str, str, float, float, float, float]
"""Player, opponent, wins, draws, losses, payoff."""


@dataclass(frozen=True, slots=True)
class Record:
    """What games against one opponent came to, as the player saw it."""

    wins: float = 0.0
    draws: float = 0.0
    losses: float = 0.0
    payoff: float = 0.0
    """What the player got in all of them together."""

    def __add__(self, other: "Record") -> "Record":
        return Record(
            self.wins + other.wins,
            self.draws + other.draws,
            self.losses + other.losses,
            self.payoff + other.payoff,
        )

    def scaled(self, weight: float) -> "Record":
        """As if every game counted only so much."""
        return Record(
            weight * self.wins, weight * self.draws, weight * self.losses, weight * self.payoff
        )

    @property
    def games(self) -> float:
        """How many there were."""
        return self.wins + self.draws + self.losses

    @property
    def score(self) -> float:
        """A draw is half a win."""
        return self.wins + 0.5 * self.draws

    @property
    def mean_payoff(self) -> float:
        """Of a game; 0 where there was none."""
        return self.payoff / self.games if self.games else 0.0

    def win_rate(self, prior: float = 1.0) -> float:
        """The share of games won, a draw half, as if `prior` more games had been drawn.

        With few games it is near one half, so that whoever was hardly met is met again.
        """
        total = self.games + prior
        return (self.score + 0.5 * prior) / total if total else 0.5


class PayoffTable:
    """Records by player and opponent. A pair that never met has an empty one."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        """Take up what `entries` said."""
        self._records = {(entry[0], entry[1]): Record(*entry[2:]) for entry in entries}

    def add(self, player: str, opponent: str, record: Record) -> None:
        """More games."""
        self._records[player, opponent] = self.record(player, opponent) + record

    def record(self, player: str, opponent: str) -> Record:
        """What the games of a pair came to."""
        return self._records.get((player, opponent), Record())

    def recent(self, players: Sequence[str], opponent: str, decay: float = 1.0) -> Record:
        """The games of several players as one: those of `players[i]` count `decay ** i`."""
        total = Record()
        for age, player in enumerate(players):
            if (player, opponent) in self._records:
                total = total + self._records[player, opponent].scaled(decay**age)
        return total

    def forget(self, name: str) -> None:
        """Leave out all games of a player or an opponent."""
        self._records = {pair: record for pair, record in self._records.items() if name not in pair}

    def pairs(self) -> Mapping[tuple[str, str], Record]:
        """Every record, by player and opponent."""
        return dict(self._records)

    def entries(self) -> tuple[Entry, ...]:
        """All of it as JSON can hold it; what `__init__` takes."""
        return tuple(self._entries())

    def _entries(self) -> Iterator[Entry]:
        for (player, opponent), held in self._records.items():
            yield player, opponent, held.wins, held.draws, held.losses, held.payoff


def pack(records: Mapping[str, Record]) -> bytes:
    """Records by opponent, as an actor sends them; nothing is no bytes."""
    if not records:
        return b""
    held = {name: [r.wins, r.draws, r.losses, r.payoff] for name, r in records.items()}
    return json.dumps(held).encode()


def unpack(data: bytes) -> dict[str, Record]:
    """What `pack` was given."""
    return {name: Record(*held) for name, held in json.loads(data).items()} if data else {}
