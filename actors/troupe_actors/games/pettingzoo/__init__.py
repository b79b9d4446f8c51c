"""Any PettingZoo environment, agents acting in turn or at once, by name; see `docs/games.md`."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from troupe.config import config
from troupe.errors import TroupeError, UserError
from troupe.jobs.spec import Positive
from troupe.policies import Spaces
from troupe_actors.environments.faults import Failures, Patience, told
from troupe_actors.games._check import MOST_SECONDS
from troupe_actors.games._check import report as check
from troupe_actors.games.pettingzoo.making import make
from troupe_actors.games.pettingzoo.seats import Seats
from troupe_actors.games.pettingzoo.tables import Tables

__all__ = ["Game", "Rules", "Tables", "deal_hands", "report"]


@config
class Rules:
    """An environment of PettingZoo."""

    environment: str
    """An id such as `classic/chess-v6`, `package.module` with `env` or `parallel_env`, or
    `package.module:function`."""
    options: Mapping[str, object] = Field(default_factory=dict)
    """What it is made with."""
    max_moves: Positive | None = None
    """A game that is not over after so many moves of its seats is truncated."""


class Game:
    """One environment; keeps to `troupe_actors.games.Game`.

    Its seats are its `possible_agents`, and each sees and does what the environment says. Moves are
    the numbers of actions, from 0.
    """

    name = "pettingzoo"

    def __init__(
        self,
        rules: Rules,
        patience: Patience | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        """Make the environment once, to see what it is. `wait` is called with seconds before one
        that failed is made anew.

        Raises:
            UserError: there is no such environment, or no policy can play it.
        """
        self.rules = rules
        self._make = partial(make, rules.environment, rules.options)
        self._failures = partial(Failures, patience or Patience(), wait)
        try:
            env = self._make()
            self._seats = Seats(rules.environment, env)
            env.close()
        except TroupeError:
            raise
        except Exception as error:
            raise UserError(f"environment {rules.environment!r}: raised {told(error)}") from error
        self.seats = self._seats.names

    def spaces(self, seat: int) -> Spaces:
        """What that seat sees and does. Rows of `Turn` are cut to its width."""
        return self._seats.each[seat].spaces

    def tables(self, count: int, seed: int, *, skip_forced: bool = True) -> Tables:
        """`count` environments whose games follow from `seed` alone.

        Raises:
            ValueError: `count` is not positive.
            EnvironmentFaultError: an environment fails again and again, or breaks its own spaces.
        """
        return Tables(
            self.rules.environment, self._make, self._seats, count, seed,
            skip_forced=skip_forced, max_moves=self.rules.max_moves, failures=self._failures,
        )  # fmt: skip

    def describe(self, move: int) -> str:
        """The number of the action: PettingZoo has no names for them."""
        return str(move)


def deal_hands(key: int) -> NDArray[np.uint64]:
    """[1]: the deal of a 64-bit key, which is what the environment is seeded by."""
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
    return check("pettingzoo", rules, seconds=seconds, determined=determined)
