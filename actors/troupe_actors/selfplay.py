"""Self-play: policies play a game against each other on many tables at once. Seats are data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gymnasium import spaces as gym
from numpy.typing import NDArray

from troupe.episodes import Array, Episodes
from troupe.policies import Acting, Decisions, Spaces
from troupe_actors.games import Tables, Turn, rows_of
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


@dataclass(frozen=True, slots=True)
class Epsilon:
    """The share of random decisions: falls linearly while a policy makes its first updates.

    An untrained network prefers some moves for no reason. Playing them, a side that always loses
    sees nothing but losses, and learns nothing from them.
    """

    end: float
    start: float = 0.0
    decay: int = 0
    """Updates until it has fallen to `end`."""

    def __call__(self, version: int) -> float:
        """The share at a version of the weights, which counts updates."""
        left = max(0.0, 1.0 - version / self.decay) if self.decay else 0.0
        return self.end + (self.start - self.end) * left


class Round(NamedTuple):
    """What came of one move on every table."""

    blocks: list[Episodes]
    """Those that have become full."""
    episodes: int
    """Games that have ended."""


def run_loop(
    tables: Tables,
    players: Sequence[Player],
    random: np.random.Generator,
    *,
    epsilon: Callable[[int], float],
    block_steps: int,
    author: Author,
) -> Iterator[Round]:
    """Play for ever; yields after every move on all tables.

    `epsilon` says, by the version of a player's weights, which share of its decisions is random.
    Between two yields the caller may load new weights into a player and set its version.
    """
    turn = tables.turn()
    count = len(turn.seat)
    recorders = [
        Recorder(player.policy, player.seats, count, block_steps, author) for player in players
    ]
    player_of = np.empty(1 + max(seat for player in players for seat in player.seats), np.int64)
    for number, player in enumerate(players):
        player_of[list(player.seats)] = number
    while True:
        choice = np.zeros(count, np.int64)
        to_move = player_of[turn.seat]
        for number, (player, recorder) in enumerate(zip(players, recorders, strict=True)):
            waiting = np.flatnonzero(to_move == number)
            if not waiting.size:
                continue
            decisions = select(turn, waiting, player.spaces)
            choices = player.acting.act(decisions, random, epsilon(player.version))
            choice[waiting] = choices.choice
            recorder.record(
                waiting, turn.seat[waiting], turn.group[waiting], decisions, choices, player.version
            )
        turn = tables.play(choice)
        blocks = [recorder.finish(turn.finished, turn.payoff) for recorder in recorders]
        yield Round([block for block in blocks if block is not None], len(turn.finished))


def select(turn: Turn, tables: NDArray[np.int64], spaces: Spaces) -> Decisions:
    """The decisions that wait on these tables, in their order, as a policy of these spaces sees them."""
    rows, offsets = rows_of(turn.offsets, tables)
    observation = {
        name: _cut(turn.observation[name], space)[tables]
        for name, space in spaces.observation.items()
    }
    return Decisions(observation, _cut(turn.legal, spaces.action)[rows], offsets)


def _cut(rows: Array, space: gym.Space[NDArray[np.generic]]) -> Array:
    """Rows that are as wide as the widest seat's, as wide as this space."""
    if isinstance(space, gym.MultiBinary):
        return rows[:, : -(-int(np.prod(space.shape)) // 8)]
    return rows
