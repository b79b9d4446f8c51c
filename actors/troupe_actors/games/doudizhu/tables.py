"""Many tables played together, from Python."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from troupe.episodes import Columns
from troupe_actors.games import Turn
from troupe_actors.games.doudizhu import engine, features
from troupe_actors.games.doudizhu.cards import DECK, HAND_SIZES, counts, size, thermometer
from troupe_actors.games.doudizhu.rules import Rules
from troupe_actors.games.doudizhu.view import View, view_of

STATE_BYTES: Final = 54
HISTORY_BYTES: Final = 102
MOVE_BYTES: Final = 7


class Tables:
    """T tables of Dou Dizhu, advanced together; they keep to `troupe_actors.games.Tables`."""

    def __init__(self, count: int, rules: Rules, seed: int, *, skip_forced: bool) -> None:
        """Deal `count` tables. Table t plays the deals t, t + count, ... of the seed.

        Raises:
            ValueError: `count` is not positive.
        """
        if count < 1:
            raise ValueError(f"{count} tables: at least one is needed")
        self.decisions = 0
        self.forced = 0
        self._settings = engine.Settings(
            seed=np.uint64(seed % 2**64),
            both_jokers=rules.both_jokers_kicker,
            four_with_two=rules.four_with_two,
            bomb_doubling=rules.bomb_doubling,
            skip_forced=skip_forced,
            endless=True,
        )
        self._tables = np.zeros(count, engine.RECORD)
        self._moves = np.empty(count * engine.MOST_MOVES, np.int64)
        self._offsets = np.zeros(count + 1, np.int64)
        self._choice = np.empty(count, np.int64)
        self._ended = np.empty(count, np.int64)
        self._payoff = np.empty((count, 3), np.float32)
        self._totals = np.zeros(2, np.int64)
        # Views that every `Turn` shares.
        self._words = self._moves.view(np.uint64)
        self._legal = self._moves.view(np.uint8).reshape(-1, 8)[:, :MOVE_BYTES]
        self._observation = {
            "state": self._tables["state"].view(np.uint8)[:, :STATE_BYTES],
            "history": self._tables["history"].view(np.uint8)[:, :HISTORY_BYTES],
        }
        engine.deal_all(self._tables, self._settings.seed)
        self._advance(self._choice[:0])

    def turn(self) -> Turn:
        """Where the tables stand now; nothing is finished."""
        return self._turn(0)

    def play(self, choice: NDArray[np.int64]) -> Turn:
        """Make one move a table, as `troupe_actors.games.Tables` says.

        Tables that are done take no part; their choice is not looked at.

        Raises:
            ValueError: `choice` is not int64 [T], or one of them is out of range; no table has moved.
        """
        if choice.shape != (len(self._tables),) or choice.dtype != np.int64:
            raise ValueError(
                f"choice is {choice.dtype} {choice.shape}, not int64 ({len(self._tables)},)"
            )
        self._choice[:] = choice  # compiled code takes only what is contiguous and writeable
        games = self._advance(self._choice)
        if games < 0:
            t = -1 - games
            raise ValueError(
                f"choice {choice[t]} on table {t}, which has "
                f"{self._offsets[t + 1] - self._offsets[t]} legal moves"
            )
        return self._turn(games)

    def deal(self, hands: NDArray[np.uint64]) -> Turn:
        """Play these deals, one a table and each once: a table whose game ends is done.

        A done table has no legal moves. `group` is the row in `hands`.

        Args:
            hands: [T, 3], by seat, each hand as a set of cards (`cards`); the landlord has 20.

        Raises:
            ValueError: the hands are not a deal for every table; nothing has changed.
        """
        if hands.shape != (len(self._tables), 3) or hands.dtype != np.uint64:
            raise ValueError(
                f"hands are {hands.dtype} {hands.shape}, not uint64 ({len(self._tables)}, 3)"
            )
        dealt = [_check_deal(t, row) for t, row in enumerate(hands.tolist())]
        for t, deal in enumerate(dealt):
            engine.start(self._tables[t], deal, t)
        self._settings = self._settings._replace(endless=False)
        return self._turn(self._advance(self._choice[:0]))

    @property
    def done(self) -> NDArray[np.bool_]:
        """[T]: tables that play no more, after `deal`; valid until the next call."""
        done: NDArray[np.bool_] = self._tables["done"]
        return done

    def observe(self, table: int, seat: int) -> Columns:
        """What `seat` sees of a table, whoever is to move: rows as in `Turn.observation`, copied."""
        state = np.empty(features.STATE_WORDS, np.int64)
        engine.observe(self._tables[table], seat, state)
        return {
            "state": state.view(np.uint8)[:STATE_BYTES],
            "history": self._observation["history"][table].copy(),
        }

    def view(self, table: int, seat: int) -> View:
        """What `seat` knows of a table, for a person or a rule-based agent."""
        return view_of(self._tables.view(np.recarray)[table], seat)

    def hands(self) -> NDArray[np.uint64]:
        """[T, 3]: what every seat holds now, hidden cards included."""
        held = self._tables["hand"]
        words = [thermometer(hand) for hand in held.reshape(-1).tolist()]
        return np.array(words, np.uint64).reshape(held.shape)

    def _advance(self, choice: NDArray[np.int64]) -> int:
        games = engine.advance(
            self._tables,
            self._moves,
            self._offsets,
            choice,
            self._ended,
            self._payoff,
            self._totals,
            self._settings,
        )
        self.decisions, self.forced = self._totals.tolist()
        return games

    def _turn(self, games: int) -> Turn:
        end = self._offsets[-1]
        return Turn(
            seat=self._tables["seat"],
            offsets=self._offsets,
            moves=self._words[:end],
            legal=self._legal[:end],
            observation=self._observation,
            group=self._tables["group"],
            finished=self._ended[:games].copy(),
            payoff=self._payoff[:games].copy(),
        )


def _check_deal(table: int, hands: list[int]) -> tuple[int, int, int]:
    """The counts of three hands that make up the deck."""
    landlord, down, up = (counts(hand) if hand <= DECK else 0 for hand in hands)
    sizes = tuple(size(hand) if hand <= DECK else -1 for hand in hands)
    if sizes != HAND_SIZES:
        raise ValueError(f"deal {table}: hands of {sizes} cards, not {HAND_SIZES}")
    if [thermometer(landlord), thermometer(down), thermometer(up)] != hands:
        raise ValueError(f"deal {table}: a hand's bits are not filled from each rank's lowest")
    if thermometer(landlord + down + up) != DECK:
        raise ValueError(f"deal {table}: the hands do not make up the deck")
    return landlord, down, up
