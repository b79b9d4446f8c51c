"""Which game of OpenSpiel is played, and how it is found."""

import difflib
from collections.abc import Mapping
from typing import Literal

import pyspiel
from pydantic import Field

from troupe.config import config
from troupe.errors import UserError
from troupe.jobs.spec import Positive

AT = "game.rules"
_INSTEAD = "turn_based_simultaneous_game(game={})"


@config
class Rules:
    """A game of OpenSpiel, and what is seen of it."""

    game: str
    """Its name, such as `leduc_poker`, or with parameters as OpenSpiel writes them."""
    parameters: Mapping[str, bool | int | float | str] = Field(default_factory=dict)
    """Of the game, by name; the others are as OpenSpiel has them."""
    observation: Literal["auto", "information_state", "observation"] = "auto"
    """What a seat sees: all that it has seen so far, or the present; auto is the first if there is."""
    max_moves: Positive | None = None
    """A game that is not over after so many moves of its seats is truncated."""


def load_game(rules: Rules) -> "pyspiel.Game":
    """The game, sound for play by seats in turn.

    Raises:
        UserError: there is no such game or parameter, or it cannot be played in turn or be seeded.
    """
    _check_name(rules)
    try:
        game = (
            pyspiel.load_game(rules.game, _parameters(rules))
            if rules.parameters
            else (pyspiel.load_game(rules.game))
        )
    except pyspiel.SpielError as error:
        raise UserError(f"{AT}: {rules.game}: {_line(error)}") from None
    kind = game.get_type()
    if kind.dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS:
        raise UserError(
            f"{AT}.game: {rules.game!r}: its seats move at once; in turn it is called "
            f"{_INSTEAD.format(game)!r}"
        )
    if kind.dynamics != pyspiel.GameType.Dynamics.SEQUENTIAL:
        raise UserError(
            f"{AT}.game: {rules.game!r} is a mean-field game, which has no seats to play"
        )
    if kind.chance_mode == pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC:
        raise UserError(
            f"{AT}.game: {rules.game!r} keeps its chance to itself, so no deal could be repeated"
        )
    return game


def sees_information_state(rules: Rules, game: "pyspiel.Game") -> bool:
    """Whether seats see their information state, or else their observation.

    Raises:
        UserError: the game has no such thing as a tensor.
    """
    kind = game.get_type()
    has = {
        "information_state": kind.provides_information_state_tensor,
        "observation": kind.provides_observation_tensor,
    }
    if not any(has.values()):
        raise UserError(f"{AT}.game: {rules.game!r} shows nothing that a network could read")
    wanted = rules.observation
    if wanted == "auto":
        return bool(has["information_state"])
    if not has[wanted]:
        other = next(name for name, there in has.items() if there)
        raise UserError(f"{AT}.observation: {rules.game!r} has no {wanted} tensor, but {other}")
    return wanted == "information_state"


def _check_name(rules: Rules) -> None:
    name = rules.game.partition("(")[0]
    known = pyspiel.registered_names()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
        raise UserError(f"{AT}.game: OpenSpiel has no {name!r}; {hint}")
    if "(" in rules.game and rules.parameters:
        raise UserError(f"{AT}.parameters: {rules.game!r} has its parameters in its name already")


def _parameters(rules: Rules) -> Mapping[str, object]:
    """The game's parameters, each of the type that the game has it in."""
    kinds = {kind.short_name: kind for kind in pyspiel.registered_games()}
    there: Mapping[str, object] = kinds[rules.game].parameter_specification
    given: dict[str, object] = {}
    for name, value in rules.parameters.items():
        at = f"{AT}.parameters.{name}"
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            known = ", ".join(there) or "none"
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {known}"
            raise UserError(f"{at}: {rules.game!r} has no such parameter; {hint}")
        default = there[name]
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if isinstance(default, dict):
            raise UserError(f"{at}: write it in the name: {rules.game}({name}={value})")
        if type(value) is not type(default):
            raise UserError(f"{at}: {value!r} is not of the type of its default, {default!r}")
        given[name] = value
    return given


def _line(error: Exception) -> str:
    """What OpenSpiel says, in one line and without its own source's place."""
    words = str(error).split()
    return " ".join(word for word in words if not word.startswith("/"))[:300]
