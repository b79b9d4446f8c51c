"""Many PettingZoo environments, played together as tables of one game."""

from collections.abc import Callable
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupe import seeding
from troupe.episodes import Array, Columns
from troupe.errors import TroupeError
from troupe_actors.environments.faults import Failures
from troupe_actors.games import WAIT, Turn
from troupe_actors.games.pettingzoo.making import Env
from troupe_actors.games.pettingzoo.seats import Seats
from troupe_actors.games.pettingzoo.table import Table

MOST_EMPTY: Final = 1000
"""Games in a row in which nobody has a choice, before that is an error."""


class _End(NamedTuple):
    """The end of a game in this call."""

    row: int
    payoff: list[float]
    truncated: list[bool]
    """By seat."""
    final: Columns
    """By name, [seats, ...]."""


class Tables:
    """T environments, advanced together; they keep to `troupe_actors.games.Tables`.

    Table t plays the games t, t + T, ... of the seed. A game without any decision, since all its
    moves were forced, is not told of. Seats whose actions cannot be listed (MultiDiscrete, Box)
    have no legal moves in a `Turn`: where there are such, `act` takes the place of `play`.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Env],
        seats: Seats,
        count: int,
        seed: int,
        *,
        skip_forced: bool,
        max_moves: int | None,
        failures: Callable[[], Failures],
    ) -> None:
        """Make `count` environments and begin a game in each.

        Raises:
            ValueError: `count` is not positive.
            EnvironmentFaultError: one fails again and again, or breaks its own spaces.
            TroupeError: no game has a decision.
        """
        if count < 1:
            raise ValueError(f"{count} tables: at least one is needed")
        self.decisions = 0
        self.forced = 0
        self.done = np.zeros(count, np.bool_)
        """[T]: tables that play no more, after `deal`; valid until the next call."""
        self._name = name
        self._seats = seats
        self._seed = seed
        self._skip_forced = skip_forced
        self._max_moves = max_moves
        self._endless = True
        self._rows = np.arange(count)
        self._offsets = np.zeros(count + 1, np.int64)
        self._seen = seats.empty(count)
        """What every seat saw last."""
        views = seats.views(self._seen)
        self._tables = [Table(name, row, make, seats, views, failures()) for row in range(count)]
        self._ends: list[_End] = []
        self._reward = np.zeros((count, len(seats)), np.float32)
        self._no_final = seats.empty(0)
        for table in self._tables:
            self._begin_next(table)

    @property
    def restarts(self) -> int:
        """How often an environment failed and was made anew."""
        return sum(table.failures.total for table in self._tables)

    def turn(self) -> Turn:
        """Where the tables stand now; nothing is finished."""
        self._reward[:] = 0.0
        return self._turn()

    def play(self, choice: NDArray[np.int64]) -> Turn:
        """Make one move a table, as `troupe_actors.games.Tables` says.

        Tables that are done take no part; their choice is not looked at.

        Raises:
            ValueError: a choice is out of range, or nothing is listed; no table has moved.
            EnvironmentFaultError: an environment fails again and again, or breaks its own spaces.
        """
        return self.act(choice, self._offsets[:0])

    def act(self, choice: NDArray[np.int64], action: Array) -> Turn:
        """Make one move a table: as `play` where moves are listed, else by its own row of `action`.

        Args:
            action: [T, ...], as the seat's action space says, in rows as wide as the widest seat's.

        Raises:
            ValueError, EnvironmentFaultError: as `play`.
        """
        moves = [
            self._chosen(table, index, action)
            for table, index in zip(self._tables, choice.tolist(), strict=True)
        ]
        self._reward[:] = 0.0
        for table, move in zip(self._tables, moves, strict=True):
            if move is not None:
                self.decisions += 1
                table.step(move)
                self._settle(table)
                self._conclude(table)
        return self._turn()

    def deal(self, hands: NDArray[np.uint64]) -> Turn:
        """Play these deals, one a table and each once: a table whose game ends is done.

        A done table has no legal moves. `group` is the row in `hands`.

        Args:
            hands: [T, 1], the keys of the deals (`deal_hands`), which environments are seeded by.

        Raises:
            ValueError: there is not one for every table; nothing has changed.
            EnvironmentFaultError: as `play`.
        """
        if hands.shape != (len(self._tables), 1):
            raise ValueError(f"hands are {hands.shape}, not ({len(self._tables)}, 1)")
        self._endless = False
        self.done[:] = False
        self._reward[:] = 0.0
        for row, (table, key) in enumerate(zip(self._tables, hands[:, 0].tolist(), strict=True)):
            table.number = row
            while not table.begin(key):
                pass
            self._settle(table)
            self._conclude(table)
        return self._turn()

    def close(self) -> None:
        """Let go of the environments; may be called twice."""
        for table in self._tables:
            table.close()

    def _chosen(self, table: Table, index: int, action: Array) -> Array | int | None:
        """The move that a choice stands for; None where none is made."""
        if table.over or index == WAIT:
            return None
        row = table.row
        if self._seats.each[table.seat].count:
            if not 0 <= index < len(table.legal):
                raise ValueError(
                    f"choice {index} on table {row}, which has {len(table.legal)} legal moves"
                )
            return table.legal[index]
        if not len(action):
            raise ValueError(f"on table {row} no moves are listed: an action is to be given")
        given: Array = action[row]
        return given

    def _settle(self, table: Table) -> None:
        """Make forced moves until a seat must decide, or the game is over."""
        while not table.over:
            if table.moves == self._max_moves:
                table.stop()
            elif self._skip_forced and len(table.legal) == 1:
                self.decisions += 1
                self.forced += 1
                table.step(table.legal[0])
            else:
                return

    def _conclude(self, table: Table) -> None:
        """Note what the move brought; if the game is over, begin the next."""
        row = table.row
        if not table.over:
            self._reward[row] = table.collect()
            return
        final = {name: column[row].copy() for name, column in self._seen.items()}
        self._ends.append(_End(row, table.collect(), table.truncated, final))
        if self._endless:
            table.number += len(self._tables)
            self._begin_next(table)
        else:
            self.done[row] = True

    def _begin_next(self, table: Table) -> None:
        """Begin the table's game, or a later one where that fails or nobody has a choice."""
        for _ in range(MOST_EMPTY):
            if table.begin(seeding.key(self._seed, table.number)):
                self._settle(table)
                if not table.over:
                    return
            table.number += len(self._tables)
        raise TroupeError(
            f"environment {self._name!r}: in {MOST_EMPTY} games no seat ever had a choice"
        )

    def _turn(self) -> Turn:
        tables, ends = self._tables, self._ends
        self._ends = []
        seat = np.array([table.seat for table in tables], np.uint8)
        np.cumsum([len(table.legal) for table in tables], out=self._offsets[1:])
        legal = np.fromiter(chain.from_iterable([table.legal for table in tables]), np.int64)
        payoff = np.array([end.payoff for end in ends], np.float32).reshape(-1, len(self._seats))
        return Turn(
            seat=seat,
            offsets=self._offsets,
            moves=legal,
            legal=legal,
            observation={name: column[self._rows, seat] for name, column in self._seen.items()},
            group=np.array([table.number for table in tables]),
            finished=np.array([end.row for end in ends], np.int64),
            payoff=payoff,
            reward=self._reward,
            truncated=np.array([end.truncated for end in ends], np.bool_).reshape(payoff.shape),
            final=self._final(ends),
        )

    def _final(self, ends: list[_End]) -> Columns:
        """By name, [K, seats, ...]."""
        if not ends:
            return self._no_final
        return {name: np.stack([end.final[name] for end in ends]) for name in self._seen}
