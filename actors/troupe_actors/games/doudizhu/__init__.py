"""Dou Dizhu: one landlord against two peasants; see `docs/doudizhu.md`."""

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from troupe.policies import Spaces
from troupe_actors.games.doudizhu import features, names
from troupe_actors.games.doudizhu.cards import deal_hands
from troupe_actors.games.doudizhu.rules import Rules
from troupe_actors.games.doudizhu.tables import Tables
from troupe_actors.games.doudizhu.view import View

__all__ = ["Game", "Rules", "Tables", "View", "deal_hands"]


class Game:
    """Dou Dizhu by one rule profile; keeps to `troupe_actors.games.Game`."""

    name = "doudizhu"
    seats = ("landlord", "landlord_down", "landlord_up")

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def spaces(self, seat: int) -> Spaces:
        """What that seat sees and does; `features` says which bit is what."""
        observation: Mapping[str, spaces.Space[Any]] = {
            "state": spaces.MultiBinary(features.STATE_BITS[seat]),
            "history": spaces.MultiBinary([features.HISTORY, features.CARDS]),
        }
        return Spaces(observation=observation, action=spaces.MultiBinary(features.CARDS))

    def tables(self, count: int, seed: int, *, skip_forced: bool = True) -> Tables:
        """`count` tables whose deals follow from `seed` alone.

        Raises:
            ValueError: `count` is not positive.
        """
        return Tables(count, self.rules, seed, skip_forced=skip_forced)

    def describe(self, move: int) -> str:
        """A legal move as a person reads it, such as `333444+56`."""
        return names.describe(int(move))

    def parse_move(self, text: str) -> int:
        """The move that a person wrote; it need not be legal.

        Raises:
            ValueError: these are no cards.
        """
        return names.parse_move(text)
