"""Any game of OpenSpiel whose seats move in turn, by name; see `docs/games.md`."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from troupe.errors import UserError
from troupe.policies import Spaces

if find_spec("pyspiel") is None:
    raise UserError(
        "game.name: 'openspiel' needs the package open_spiel; pip install 'troupe[openspiel]'"
    )

from troupe_actors.games._check import MOST_SECONDS
from troupe_actors.games._check import report as check
from troupe_actors.games.openspiel.rules import (
    Rules,
    load_game,
    sees_information_state,
)
from troupe_actors.games.openspiel.stages import Observer
from troupe_actors.games.openspiel.tables import Tables

__all__ = ["Game", "Rules", "Tables", "deal_hands", "report"]


class Game:
    """One game of OpenSpiel; keeps to `troupe_actors.games.Game`.

    A seat sees `state`, its tensor as OpenSpiel lays it out, flat and in float32, and
    `action_mask`. Moves are OpenSpiel's own numbers of actions.
    """

    name = "openspiel"

    def __init__(self, rules: Rules) -> None:
        """Find the game.

        Raises:
            UserError: there is no such game, or it cannot be played here.
        """
        self.rules = rules
        self.game = load_game(rules)
        """OpenSpiel's own object."""
        self.information_state = sees_information_state(rules, self.game)
        """Seats see all that they have seen so far."""
        self.seats = tuple(f"player_{seat}" for seat in range(self.game.num_players()))
        self.actions = int(self.game.num_distinct_actions())
        state = spaces.Box(-np.inf, np.inf, (self.observer().size,), np.float32)
        observation: Mapping[str, spaces.Space[Any]] = {
            "state": state,
            "action_mask": spaces.MultiBinary(self.actions),
        }
        action = cast("spaces.Space[NDArray[np.generic]]", spaces.Discrete(self.actions))
        self._spaces = Spaces(observation, action)

    def spaces(self, seat: int) -> Spaces:
        """What that seat sees and does: the same for all."""
        return self._spaces

    def tables(self, count: int, seed: int, *, skip_forced: bool = True) -> Tables:
        """`count` tables whose chance follows from `seed` alone.

        Raises:
            ValueError: `count` is not positive.
        """
        return Tables(
            self.game, self.observer(), count, seed,
            skip_forced=skip_forced, max_moves=self.rules.max_moves,
        )  # fmt: skip

    def observer(self) -> Observer:
        """Writes what a seat sees of a state."""
        return Observer(self.game, self.information_state)

    def describe(self, move: int) -> str:
        """A move as a person reads it."""
        return str(self.game.action_to_string(0, move))


def deal_hands(key: int) -> NDArray[np.uint64]:
    """[1]: the deal of a 64-bit key, which is what its chance follows from."""
    return np.array([key], np.uint64)


def report(
    rules: Mapping[str, object], *, seconds: float = MOST_SECONDS, determined: bool = True
) -> str:
    """One line that says that the game is sound, tried at random for so many seconds.

    Args:
        determined: its seed and the moves are to determine it.

    Raises:
        UserError: one line that says what is wrong with it.
    """
    return check("openspiel", rules, seconds=seconds, determined=determined)
