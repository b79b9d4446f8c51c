"""Agents: whoever can choose among listed moves. One file each, found by its name or by a run's folder.

`rule` finds `<game>_rule.py`, so each game brings a rule of its own; `rlcard-rule` finds
`rlcard_rule.py`. A file offers `create(game) -> Agent`, and may say `GAME` (the only game it plays)
and `EXTRA` (the optional package it needs).
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from troupe import checkpoint, plugins
from troupe.episodes import Array, Columns
from troupe.errors import UserError
from troupe.jobs.roles import title
from troupe.jobs.spec import Job
from troupe.runs import RUNS, RunFolder
from troupe_actors.games import Game, Turn, rows_of


class Position(NamedTuple):
    """B tables where one agent is to move, with M legal moves among them: what it may know."""

    seat: NDArray[np.uint8]
    """[B]: who is to move."""
    offsets: NDArray[np.int64]
    """[B + 1]: the legal moves of table i are rows `offsets[i]` to `offsets[i + 1]`."""
    moves: Array
    """[M]: every legal move, in the game's own encoding."""
    legal: Array
    """[M, ...]: the same moves as a policy sees them."""
    observation: Columns
    """By name, [B, ...]: what the seat to move sees, as in `Turn`."""


class Agent(Protocol):
    """Chooses moves for any seat of a game, for many tables at once."""

    name: str

    def act(self, position: Position, random: np.random.Generator) -> NDArray[np.int64]:
        """[B]: which of its own legal moves each table takes, from 0."""
        ...

    def remarks(self) -> Mapping[str, int]:
        """Counts of what a reader of the result should know, in words; empty where all went well."""
        ...


def select(turn: Turn, tables: NDArray[np.int64]) -> Position:
    """What an agent may know of these tables of a turn, in their order."""
    rows, offsets = rows_of(turn.offsets, tables)
    return Position(
        seat=turn.seat[tables],
        offsets=offsets,
        moves=turn.moves[rows],
        legal=turn.legal[rows],
        observation={name: column[tables] for name, column in turn.observation.items()},
    )


def check(name: str, job: Job, key: str) -> None:
    """See that `load(name, ...)` would find an agent for this job's game, without loading it.

    `key` says where the name was given, for the error.

    Raises:
        UserError: there is no such agent or run, it plays another game, or its extra is missing.
        CheckpointError: the run has no checkpoint yet.
    """
    folder = _run_folder(name)
    if folder is None:
        assert job.game is not None
        _module(name, job.game.name, key)
        return
    plays = title(RunFolder(folder).job())
    if plays != title(job):
        raise UserError(f"{key}: the run {name!r} plays {plays}, not {title(job)}")
    checkpoint.newest(folder)


def usual(game: str) -> list[str]:
    """Who a game is judged against unless someone else is named: random, and its rule agent if any."""
    return ["random", "rule"] if "rule" in _names(game) else ["random"]


def load(name: str, game: Game, *, key: str = "--against") -> Agent:
    """The agent of that name, or the policies of the run of that name or folder.

    Raises:
        UserError: as `check`, or the run holds no checkpoint of this game.
    """
    folder = _run_folder(name)
    if folder is None:
        agent: Agent = _module(name, game.name, key).create(game)
        return agent
    from troupe_actors.agents import policy  # imports torch

    return policy.load(folder, game)


def _module(name: str, game: str, key: str) -> ModuleType:
    file = name.replace("-", "_")
    own = f"{game}_{file}"
    path = name if "." in name else own if own in plugins.names(__name__) else file
    module = plugins.find(__name__, path, key, lambda: _names(game))
    if not hasattr(module, "create"):
        raise UserError(f"{key}: {name!r} is no agent; one of {', '.join(_names(game))} or a run")
    plays = getattr(module, "GAME", game)
    if plays != game:
        raise UserError(f"{key}: {name!r} plays {plays}, not {game}")
    extra = getattr(module, "EXTRA", None)
    if extra and find_spec(extra) is None:
        raise UserError(f"{key}: {name!r} needs the package {extra}; pip install 'troupe[{extra}]'")
    return module


def _names(game: str) -> list[str]:
    """What the agents for a game are called."""
    files = (n.removeprefix(f"{game}_") for n in plugins.names(__name__) if n != "policy")
    return [file.replace("_", "-") for file in files]


def _run_folder(name: str) -> Path | None:
    """The folder of the run that `name` stands for, if it stands for one."""
    places = (RUNS / name, Path(name))
    return next((place for place in places if (place / "job.yaml").is_file()), None)
