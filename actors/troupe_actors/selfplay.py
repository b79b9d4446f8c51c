"""Self-play: policies play a game against each other on many tables at once. Seats are data."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupe.episodes import Array, Columns, Episodes
from troupe.policies import Acting, Choices, Decisions, Spaces
from troupe_actors.games import WAIT, FreeTables, Tables, Turn, cut, rows_of
from troupe_actors.recorder import Author, Recorder


@dataclass(slots=True)
class Player:
    """One policy, and the seats that it plays."""

    policy: str
    seats: tuple[int, ...]
    spaces: Spaces
    """What each of its seats sees and does."""
    acting: Acting
    version: int = 0
    """Of the weights it acts with."""
    frozen: bool = False
    """It plays, as an opponent does, but nothing is recorded for it."""
    explores: bool = True


@dataclass(frozen=True, slots=True)
class Exploration:
    """How much a policy explores: moves linearly while it makes its first updates.

    An untrained network prefers some moves for no reason. Playing them, a side that always loses
    sees nothing but losses, and learns nothing from them.
    """

    end: float
    start: float = 0.0
    decay: int = 0
    """Updates until it has come to `end`."""

    def __call__(self, version: int) -> float:
        """What `Acting.act` is told at a version of the weights, which counts updates."""
        left = max(0.0, 1.0 - version / self.decay) if self.decay else 0.0
        return self.end + (self.start - self.end) * left


class Round(NamedTuple):
    """What came of one player's moves."""

    blocks: list[Episodes]
    """Those that have become full."""
    finished: NDArray[np.int64]
    """[K]: tables whose game ended; a caller may seat other players there now."""
    payoff: NDArray[np.float32]
    """[K, seats]: what each seat won or lost in those games, all in all."""


def run_loop(
    tables: Tables,
    players: Sequence[Player],
    random: np.random.Generator,
    *,
    exploration: Callable[[int], float],
    author: Author,
    block_steps: int | None,
    seating: NDArray[np.int64] | None = None,
    games: int | None = None,
) -> Iterator[Round]:
    """Play; the players move in turn, each on all tables that wait for it. Yields after each.

    So tables go round in one wave, and a network gets many rows at once. Between two yields the
    caller may load new weights into a player and set its version.

    Args:
        exploration: by the version of a player's weights, how much it explores.
        block_steps: steps of ended games that make a block; None makes one of all, at the end.
        seating: [T, seats]: which of `players` acts, read before every move; without it each plays
            its own seats on all tables.
        games: how many every table plays, which is the end; None plays for ever.
    """
    turn = tables.turn()
    count, seats = len(turn.seat), 1 + max(seat for player in players for seat in player.seats)
    if seating is None:
        seating = np.tile(_own_seats(players, seats), (count, 1))
    seated = [_Seated(player, seating.shape, block_steps, author) for player in players]
    action = _unlisted(players, count) if isinstance(tables, FreeTables) else None
    left = np.full(count, -1 if games is None else games)
    earlier = np.zeros(seating.shape, np.float32)
    """[T, seats]: what each seat got in moves before this one."""
    for number in itertools.cycle(range(len(seated))):
        if not left.any():
            break
        playing = np.flatnonzero(left)
        to_move = seating[playing, turn.seat[playing]]
        waiting = playing[to_move == number]
        if not waiting.size:
            continue
        choices = seated[number].decide(turn, waiting, random, exploration)
        choice = np.full(count, WAIT)
        choice[waiting] = choices.choice
        if action is not None and choices.action.ndim > 1:
            action[waiting, : choices.action.shape[1]] = choices.action
        if action is None:
            turn = tables.play(choice)
        else:
            assert isinstance(tables, FreeTables)
            turn = tables.act(choice, action)
        blocks = [one.finish(turn) for one in seated]
        counted = left[turn.finished] != 0
        finished = turn.finished[counted]
        left[finished] -= 1
        payoff = (turn.payoff + earlier[turn.finished])[counted]
        earlier[turn.finished] = 0.0
        if turn.reward is not None:
            earlier += turn.reward
        yield Round([block for block in blocks if block is not None], finished, payoff)
    rest = [one.recorder.block() for one in seated if one.recorder is not None]
    yield Round(rest, np.empty(0, np.int64), np.empty((0, seats), np.float32))


class _Seated:
    """A player at its tables: what it remembers, and what is recorded of it."""

    def __init__(
        self, player: Player, seating: tuple[int, ...], block_steps: int | None, author: Author
    ) -> None:
        self._player = player
        self._seats = seating[1]
        self._fresh = player.acting.initial(1)
        self._memory = {
            name: np.repeat(row, seating[0] * seating[1], 0) for name, row in self._fresh.items()
        }
        """Recurrent state by table and seat."""
        self.recorder = None
        if not player.frozen:
            self.recorder = Recorder(
                player.policy,
                player.seats,
                player.spaces,
                tables=seating[0],
                block_steps=block_steps,
                author=author,
                initial=self._fresh,
            )

    def decide(
        self,
        turn: Turn,
        waiting: NDArray[np.int64],
        random: np.random.Generator,
        exploration: Callable[[int], float],
    ) -> Choices:
        """What it chooses on the B tables that wait for it."""
        player, seats = self._player, turn.seat[waiting]
        decisions = select(turn, waiting, player.spaces)
        if self._memory:
            rows = waiting * self._seats + seats
            decisions = decisions._replace(state={n: c[rows] for n, c in self._memory.items()})
        explored = exploration(player.version) if player.explores else 0.0
        choices = player.acting.act(decisions, random, explored)
        for name, column in self._memory.items():
            column[rows] = choices.state[name]
        if self.recorder is not None:
            groups = turn.group[waiting]
            self.recorder.record(waiting, seats, groups, decisions, choices, player.version)
        return choices

    def finish(self, turn: Turn) -> Episodes | None:
        """Take in what came of the move; a block, if one is full."""
        if self._memory and turn.finished.size:
            rows = (turn.finished[:, None] * self._seats + np.arange(self._seats)).reshape(-1)
            for name, column in self._memory.items():
                column[rows] = self._fresh[name]
        return None if self.recorder is None else self.recorder.finish(turn)


def select(turn: Turn, tables: NDArray[np.int64], spaces: Spaces) -> Decisions:
    """The decisions that wait on these tables, in their order, as a policy of these spaces sees them."""
    rows, offsets = rows_of(turn.offsets, tables)
    observation: Columns = {
        name: cut(turn.observation[name], space)[tables]
        for name, space in spaces.observation.items()
    }
    legal: Array = cut(turn.legal, spaces.action)[rows]
    return Decisions(observation, legal, offsets)


def _unlisted(players: Sequence[Player], count: int) -> Array | None:
    """Room for actions [T, widest] of spaces whose actions cannot be listed; None where all can."""
    free = [player.spaces.action for player in players if player.spaces.action.shape]
    if not free:
        return None
    width = max(space.shape[0] for space in free if space.shape)
    return np.zeros((count, width), np.result_type(*(space.dtype for space in free if space.dtype)))


def _own_seats(players: Sequence[Player], seats: int) -> NDArray[np.int64]:
    """[seats]: who plays each seat."""
    player_of = np.zeros(seats, np.int64)
    for number, player in enumerate(players):
        player_of[list(player.seats)] = number
    return player_of
