"""The policies of a run as an agent: each seat by its own network, exploring as its evaluation says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from troupe import checkpoint as checkpoints
from troupe.checkpoint import CheckpointError
from troupe.episodes import Array
from troupe.errors import TroupeError, UserError
from troupe.jobs.roles import title
from troupe.jobs.spec import Job
from troupe.policies import Acting, Decisions
from troupe.runs import RunFolder
from troupe_actors.agents import Position
from troupe_actors.games import Game, cut, rows_of
from troupe_actors.sources import make_acting


class PolicyAgent:
    """Plays every seat with the policy that the job gives it."""

    def __init__(self, name: str, game: Game, job: Job) -> None:
        self.name = name
        self.policies = tuple(job.policies.get(seat, seat) for seat in game.seats)
        """By seat."""
        self._exploration = job.evaluation.exploration
        self._spaces = [game.spaces(seat) for seat in range(len(game.seats))]
        self.acting: Sequence[Acting] = [make_acting(job, spaces) for spaces in self._spaces]

    def load(self, policy: str, tensors: Mapping[str, Array]) -> None:
        """Take the weights of one policy, for every seat that it plays."""
        for held, acting in zip(self.policies, self.acting, strict=True):
            if held == policy:
                acting.load(tensors)

    def act(self, position: Position, random: np.random.Generator) -> NDArray[np.int64]:
        """[B]: the move that seems best on each table, or one that is drawn."""
        choice = np.empty(len(position.seat), np.int64)
        for seat in np.unique(position.seat).tolist():
            tables = np.flatnonzero(position.seat == seat)
            decisions = self._decisions(position, seat, tables)
            choices = self.acting[seat].act(decisions, random, self._exploration)
            choice[tables] = choices.choice
        return choice

    def values(self, position: Position) -> NDArray[np.float32]:
        """[M]: how good each legal move of a single table looks to the seat to move."""
        seat = int(position.seat[0])
        return self.acting[seat].values(self._decisions(position, seat, np.arange(1)))

    def remarks(self) -> Mapping[str, int]:
        """Nothing to say."""
        return {}

    def _decisions(self, position: Position, seat: int, tables: NDArray[np.int64]) -> Decisions:
        rows, offsets = rows_of(position.offsets, tables)
        observation = {
            name: cut(position.observation[name], space)[tables]
            for name, space in self._spaces[seat].observation.items()
        }
        return Decisions(observation, cut(position.legal, self._spaces[seat].action)[rows], offsets)


def load(folder: Path, game: Game, *, checkpoint: str | None = None) -> PolicyAgent:
    """The agent of a run, from its newest checkpoint or the one named.

    Raises:
        UserError: the run plays another game than `game`.
        CheckpointError: there is no sound checkpoint, or it is of another job.
    """
    run = RunFolder(folder)
    job = run.job()
    if job.game is None or job.game.name != game.name:
        raise UserError(f"{folder}: this run plays {title(job)}, not {game.name}")
    path = run.saved(checkpoint)
    exact = replace(job, actors=replace(job.actors, precision="fp32"))
    agent = PolicyAgent(run.name, game, exact)
    for policy in sorted(set(agent.policies)):
        tensors = checkpoints.load_policy(path, policy)
        try:
            agent.load(policy, tensors)
        except TroupeError as error:
            raise CheckpointError(f"{path}: {policy}: {error}; was job.yaml changed?") from None
    return agent
