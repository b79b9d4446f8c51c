"""How far a run's policies are from an equilibrium, where OpenSpiel can tell."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from rich import box
from rich.table import Table

from troupe.errors import UserError
from troupe.jobs.spec import Job
from troupe.policies import Acting
from troupe_actors.games import Game

MOST_HISTORIES = 300_000
"""Looked through in a few seconds; Liar's dice has 294,883."""

WIDTH = 60
"""Of its table at least, for the words around it."""


@dataclass(frozen=True, slots=True)
class Result:
    """How far an agent's policies are from an equilibrium."""

    agent: str
    game: str
    nash_conv: float
    """What all seats together could gain by answering the others."""
    exploitability: float
    """The mean of that over seats."""
    states: int
    """Information states."""
    seconds: float

    def data(self) -> dict[str, object]:
        """All of it as JSON can hold it."""
        return {
            "agent": self.agent,
            "game": self.game,
            "nash_conv": self.nash_conv,
            "exploitability": self.exploitability,
            "information_states": self.states,
            "seconds": round(self.seconds, 3),
        }

    def table(self) -> Table:
        """For a person at a terminal."""
        table = Table(
            title=f"{self.agent} against best responses",
            title_justify="left",
            title_style="bold",
            caption=f"{self.states:,} information states, {self.seconds:.0f} s; 0 is an equilibrium",
            caption_justify="left",
            box=box.SIMPLE,
            pad_edge=False,
            min_width=WIDTH,
        )
        for heading in ("NashConv", "exploitability"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_row(f"{self.nash_conv:.4f}", f"{self.exploitability:.4f}")
        return table


class Yardstick:
    """All that seats can ever know in a job's game; found once, then asked of policies often."""

    def __init__(self, job: Job, game: Game) -> None:
        """Go through the game.

        Raises:
            UserError: it is none of OpenSpiel's, or too large, or its policies have a memory.
        """
        if game.name != "openspiel" or job.network.recurrent:
            raise UserError(f"game.name: NashConv of {game.name} is not known here")
        from troupe_actors.exploitability import InformationStates
        from troupe_actors.games.openspiel import Game as OpenSpiel

        theirs = cast(OpenSpiel, game)
        self._game = str(theirs.game)
        self._states = InformationStates(theirs, MOST_HISTORIES)
        self._drawn = job.evaluation.exploration > 0 and job.network.kind == "actor_critic"

    def measure(self, name: str, acting: Sequence[Acting]) -> Result:
        """How far these policies, one a seat, are from an equilibrium."""
        start = time.perf_counter()
        gap = self._states.gap(acting, stochastic=self._drawn)
        took = time.perf_counter() - start
        return Result(name, self._game, gap.nash_conv, gap.exploitability, len(self._states), took)


def yardstick(job: Job, game: Game) -> Yardstick | None:
    """One for the job's game; None where NashConv cannot be known."""
    try:
        return Yardstick(job, game)
    except UserError:
        return None
