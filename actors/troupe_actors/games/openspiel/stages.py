"""Where one table of an OpenSpiel game stands, and what follows an action there."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
import pyspiel
from numpy.typing import NDArray

MOST_STAGES: Final = 20_000
"""Games with more stages than this are not kept; Leduc poker has 3,937 that are no end."""
MOST_BYTES: Final = 16 << 20
"""Nor are those whose observations need more."""

_CHANCE: Final = int(pyspiel.PlayerId.CHANCE)

Tensor = NDArray[np.float32]


class State(Protocol):
    """The part of `pyspiel.State` that is used here."""

    def clone(self) -> "State":
        """A copy that goes its own way."""
        ...

    def child(self, action: int) -> "State":
        """A copy in which that action was taken."""
        ...

    def apply_action(self, action: int) -> None:
        """Take the action here."""
        ...

    def current_player(self) -> int:
        """Who is to move: a seat, or a number below 0 for chance and the end."""
        ...

    def legal_actions(self) -> list[int]:
        """What may be done, ascending."""
        ...

    def chance_outcomes(self) -> list[tuple[int, float]]:
        """What may happen, and how likely each is."""
        ...

    def returns(self) -> list[float]:
        """What each seat has got so far."""
        ...


class Stage:
    """A state, and all that is asked of it, asked once."""

    __slots__ = ("following", "legal", "odds", "returns", "seat", "state", "tensor")

    state: State
    seat: int
    """Who is to move; -1 where chance is, or where the game is over."""
    legal: Sequence[int]
    """What the seat to move may do, or chance; nothing where the game is over."""
    odds: Sequence[float]
    """How likely each outcome of chance is; nothing elsewhere."""
    tensor: Tensor
    """What the seat to move sees."""
    returns: Sequence[float]
    """What each seat has got so far; nothing where the game has not paid yet."""
    following: dict[int, "Stage"]
    """By action, the stages that were seen to follow, where they are kept."""


class Observer:
    """Writes what a seat sees of a state; much faster than OpenSpiel's lists of numbers."""

    def __init__(self, game: "pyspiel.Game", information_state: bool) -> None:
        recall = pyspiel.IIGObservationType(perfect_recall=True)
        observer = game.make_observer(*((recall, {}) if information_state else ({},)))
        self._writer = pyspiel._Observation(game, observer)
        self._seen: Tensor = np.frombuffer(self._writer, np.float32)
        self.size = len(self._seen)

    def __call__(self, state: State, seat: int) -> Tensor:
        """[size]: what the seat sees; the buffer of the next call too."""
        self._writer.set_from(state, seat)
        return self._seen


class Stages:
    """Goes from stage to stage of a game, and remembers them all while they are few.

    In a small game every stage is soon known, and OpenSpiel is not asked again. In a large one
    hardly any comes back: there each table has a state of its own that moves on in place.
    """

    def __init__(self, game: "pyspiel.Game", observe: Observer, *, pays_between: bool) -> None:
        """`pays_between`: seats get rewards before the game is over."""
        self._observe = observe
        self._pays_between = pays_between
        self._room = min(MOST_STAGES, MOST_BYTES // (4 * observe.size))
        self.kept = True
        """Stages are shared between tables; False once they have become too many."""
        self._first = self._describe(game.new_initial_state())

    def first(self) -> Stage:
        """The beginning of a game."""
        return self._first if self.kept else self.own(self._first)

    def own(self, stage: Stage) -> Stage:
        """The same stage for one table alone."""
        return self._describe(stage.state.clone())

    def after(self, stage: Stage, action: int) -> Stage:
        """What follows; where stages are not kept, `stage` is used up."""
        if not self.kept:
            stage.state.apply_action(action)
            return self._describe(stage.state)
        following = stage.following.get(action)
        if following is None:
            following = self._describe(stage.state.child(action))
            stage.following[action] = following
            self._room -= 1
        return following

    @property
    def crowded(self) -> bool:
        """Too many are kept: the tables are to `scatter`."""
        return self.kept and self._room <= 0

    def scatter(self, stages: Sequence[Stage]) -> list[Stage]:
        """Keep no stages from now on; those of the tables, each its own to go on from."""
        self.kept = False
        self._first.following.clear()
        return [self.own(stage) if stage.legal else stage for stage in stages]

    def _describe(self, state: State) -> Stage:
        stage = Stage()
        stage.state = state
        stage.following = {}
        player = state.current_player()
        stage.seat = max(player, -1)
        stage.odds = stage.returns = ()
        if player >= 0:
            stage.legal = state.legal_actions()
            stage.tensor = self._observe(state, player).copy()
            if self._pays_between:
                stage.returns = state.returns()
        elif player == _CHANCE:
            stage.legal, stage.odds = zip(*state.chance_outcomes(), strict=True)
        else:
            stage.legal = ()
            stage.returns = state.returns()
        return stage


def nowhere(size: int) -> Stage:
    """Where a table is that plays no more."""
    stage = Stage()
    stage.seat = 0
    stage.legal = stage.odds = stage.returns = ()
    stage.tensor = np.zeros(size, np.float32)
    stage.following = {}
    return stage


def drawn(stage: Stage, uniform: Callable[[], float]) -> int:
    """One outcome of chance; `uniform` draws from [0, 1)."""
    left = uniform()
    for action, chance in zip(stage.legal, stage.odds, strict=True):
        left -= chance
        if left < 0:
            return action
    return stage.legal[-1]  # rounding: the odds sum to a little less than 1
