"""Which policies a job has, what each of them sees and does, and what it is all about."""

import importlib
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from troupe.errors import UserError
from troupe.jobs.spec import EnvironmentSettings, GameSettings, Job
from troupe.policies import Spaces

AGENT = "agent"
"""The one seat of an environment, and of text."""
_TOKENS = Spaces({}, cast("spaces.Space[NDArray[np.generic]]", spaces.Discrete(2**31 - 1)))
"""Of text: what a language model knows of tokens is its own affair."""
_FAMILIES = ("game", "environment")
"""Rules by which a family of games, such as OpenSpiel's, knows its members."""


class Game(Protocol):
    """What the platform asks of a game."""

    seats: tuple[str, ...]
    rules: object

    def spaces(self, seat: int) -> Spaces:
        """What that seat sees and does."""
        ...


class _Environments(Protocol):
    spaces: Spaces

    def close(self) -> None: ...


def title(job: Job) -> str:
    """What is played or acted in; of a family of games, the one that its rules name; of text, the prompts."""
    if job.environment is not None:
        return job.environment.name
    if job.text is not None:
        return Path(job.text.prompts.path).stem
    assert job.game is not None
    rules = job.game.rules
    return str(next((rules[key] for key in _FAMILIES if key in rules), job.game.name))


def imitates(job: Job) -> bool:
    """Whether a job of text learns the answers in the data, rather than from what it says itself."""
    return job.text is not None and job.algorithm.get("name") == "sft"


def game_of(settings: GameSettings) -> Game:
    """The game under its rules.

    Raises:
        UserError: there is no such game, or it has no such rule.
    """
    game: Game = importlib.import_module("troupe_actors.games").load(settings.name, settings.rules)
    return game


def seats_of(job: Job) -> tuple[str, ...]:
    """The seats, in order.

    Raises:
        UserError: there is no such game, or it has no such rule.
    """
    return (AGENT,) if job.game is None else game_of(job.game).seats


def policies_of(job: Job) -> dict[str, Spaces]:
    """By policy, in the order of the seats: the spaces of the seats that it plays.

    Raises:
        UserError: the game or the environment is not to be had; or one policy is to play seats that
            see or do different things.
        TroupeError: the environment cannot be made, again and again.
    """
    if job.text is not None:
        return {job.policies.get(AGENT, AGENT): _TOKENS}
    if job.environment is not None:
        return {job.policies.get(AGENT, AGENT): _seen_in(job.environment)}
    assert job.game is not None
    game = game_of(job.game)
    held: dict[str, Spaces] = {}
    for index, seat in enumerate(game.seats):
        policy = job.policies.get(seat, seat)
        spaces = game.spaces(index)
        if held.setdefault(policy, spaces) != spaces:
            raise UserError(
                f"policies.{seat}: {policy!r} plays another seat too, which sees or does other "
                "things; give this seat a policy of its own"
            )
    return held


def _seen_in(settings: EnvironmentSettings) -> Spaces:
    """An environment is made and closed for that: only it knows."""
    environments = importlib.import_module("troupe_actors.environments")
    made: _Environments = environments.create(settings.name, settings.options, 1)
    try:
        return made.spaces
    finally:
        made.close()
