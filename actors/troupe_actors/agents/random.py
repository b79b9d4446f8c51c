"""The agent that draws uniformly among the legal moves: the floor of every comparison."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from troupe_actors.agents import Position
from troupe_actors.games import Game


class RandomAgent:
    """Every legal move is as likely as the others."""

    name = "random"

    def act(self, position: Position, random: np.random.Generator) -> NDArray[np.int64]:
        """[B]: one of its legal moves for each table."""
        return random.integers(np.diff(position.offsets))

    def remarks(self) -> Mapping[str, int]:
        """Nothing to say."""
        return {}


def create(game: Game) -> RandomAgent:
    """Plays any game."""
    return RandomAgent()
