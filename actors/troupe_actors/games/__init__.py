"""Games: one file or folder each, found by its name; many tables of a game are played together."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces as gym
from numpy.typing import NDArray

from troupe.config import parse
from troupe.episodes import Array, Columns
from troupe.plugins import find
from troupe.policies import Spaces

WAIT: Final = -1
"""The choice that leaves a table as it stands."""


class Turn(NamedTuple):
    """Where T tables stand: who moves, what they may do, what they see, and which games just ended.

    All arrays but `finished` and `payoff` are buffers of the tables: valid until the next call.
    """

    seat: NDArray[np.uint8]
    """[T]: who is to move."""
    offsets: NDArray[np.int64]
    """[T + 1]: the legal moves of table t are rows `offsets[t]` to `offsets[t + 1]`."""
    moves: Array
    """[M]: every legal move, in the game's own encoding."""
    legal: Array
    """[M, ...]: the same moves as a policy sees them, packed as the seat's action space says.

    A Discrete action space has int64 [M] here, and `action_mask`, MultiBinary, in the observation.
    """
    observation: Columns
    """By name, [T, ...]: what the seat to move sees, in rows as wide as the widest seat's."""
    group: NDArray[np.int64]
    """[T]: the number of the deal on each table."""
    finished: NDArray[np.int64]
    """[K]: tables whose game ended in this call; they already show their next deal."""
    payoff: NDArray[np.float32]
    """[K, seats]: what each seat won or lost in those games in this call: all of it, for most games."""
    reward: NDArray[np.float32] | None = None
    """[T, seats]: what each seat got in this call on tables whose game goes on; none is nothing."""
    truncated: NDArray[np.bool_] | None = None
    """[K, seats]: seats that were stopped from outside; none is none of them."""
    final: Columns = MappingProxyType({})
    """By name, [K, seats, ...]: what each seat saw last, where games may be truncated."""


class Tables(Protocol):
    """T tables of one game, each call advancing all of them or some."""

    decisions: int
    """Moves made so far over all tables, forced ones included."""
    forced: int
    """How many of them were the only legal move."""

    def turn(self) -> Turn:
        """Where the tables stand now; nothing is finished."""
        ...

    def play(self, choice: NDArray[np.int64]) -> Turn:
        """Make one move a table: `choice[t]` counts from 0 among the legal moves of table t.

        A table whose choice is `WAIT` is left as it stands.

        Finished games are dealt anew at once. With `skip_forced`, single legal moves are then made
        until every table has a real decision.

        Raises:
            ValueError: a choice is out of range; no table has moved.
        """
        ...


@runtime_checkable
class FreeTables(Tables, Protocol):
    """Tables of a game in which some seats act in a space whose actions cannot be listed."""

    def act(self, choice: NDArray[np.int64], action: Array) -> Turn:
        """As `play`, but where nothing is listed, table t takes row t of `action` [T, ...].

        Rows are of the seat's action space, and as wide as the widest seat's.

        Raises:
            ValueError: as `play`.
        """
        ...


@runtime_checkable
class ForeignTables(Tables, Protocol):
    """Tables that others wrote, which may fail and hold on to something."""

    @property
    def restarts(self) -> int:
        """How often one failed and was made anew."""
        ...

    def close(self) -> None:
        """Let go of them; may be called twice."""
        ...


class Game(Protocol):
    """What a game's module offers, besides a settings class `Rules`."""

    name: str
    seats: tuple[str, ...]
    rules: object
    """The `Rules` that it is played by."""

    def spaces(self, seat: int) -> Spaces:
        """What that seat sees and does. Rows of `Turn` are cut to its width."""
        ...

    def tables(self, count: int, seed: int, *, skip_forced: bool = True) -> Tables:
        """`count` tables whose deals follow from `seed` alone."""
        ...

    def describe(self, move: int) -> str:
        """A move as a person reads it."""
        ...


def rows_of(
    offsets: NDArray[np.int64], tables: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows between the offsets of some tables, and the offsets [B + 1] of those rows alone."""
    starts = offsets[tables]
    counts = offsets[tables + 1] - starts
    own = np.zeros(len(tables) + 1, np.int64)
    np.cumsum(counts, out=own[1:])
    return np.arange(own[-1]) + np.repeat(starts - own[:-1], counts), own


def cut(rows: Array, space: gym.Space[NDArray[np.generic]]) -> Array:
    """Rows that are as wide as the widest seat's, as wide as this space."""
    if isinstance(space, gym.MultiBinary):
        return rows[:, : -(-int(np.prod(space.shape)) // 8)]
    return rows[:, : space.shape[0]] if space.shape and rows.ndim > 1 else rows


def load(name: str, rules: Mapping[str, object]) -> Game:
    """The game called `name`, under `rules`.

    Raises:
        UserError: there is no such game, or it has no such rule.
    """
    module = find(__name__, name, "game.name")
    game: Game = module.Game(parse(module.Rules, rules, "game.rules"))
    return game
