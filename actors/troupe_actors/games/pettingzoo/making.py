"""From a name in a job file to a PettingZoo environment whose agents act in turn."""

import difflib
import importlib
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, Final, Protocol

import pettingzoo  # type: ignore[import-untyped]
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec  # type: ignore[import-untyped]

from troupe.errors import UserError
from troupe_actors.environments.faults import told

_MAKERS: Final = ("env", "parallel_env")
_HINT: Final = "a name is package.module, or package.module:function; is its folder in PYTHONPATH?"
_KINDS: Final = ("aec", "parallel")


class Env(Protocol):
    """The part of `pettingzoo.AECEnv` that is used here."""

    possible_agents: list[str]
    agents: list[str]
    agent_selection: str
    rewards: Mapping[str, object]
    terminations: Mapping[str, object]
    truncations: Mapping[str, object]
    infos: Mapping[str, Mapping[str, object]]

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode."""
        ...

    def step(self, action: object) -> None:
        """Let the selected agent act; None for one that is done."""
        ...

    def observe(self, agent: str) -> object:
        """What an agent sees."""
        ...

    def observation_space(self, agent: str) -> object:
        """Of what an agent sees."""
        ...

    def action_space(self, agent: str) -> object:
        """Of what an agent may do."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


def make(name: str, options: Mapping[str, object]) -> Env:
    """One environment: of an id of PettingZoo, of a module, or of a function or class.

    Parallel ones are played in turn: each agent chooses without knowing what the others chose.

    Raises:
        UserError: there is no such environment, it needs a package, takes no such option, or is
            no environment of PettingZoo.
    """
    maker = find(name)
    try:
        made = maker(**options)
    except TypeError as error:  # an option that it does not take, or lacks
        raise UserError(f"environment {name!r}: {told(error)}") from None
    except ModuleNotFoundError as error:
        raise _needs(name, error) from None
    except Exception as error:
        if isinstance(error.__cause__, ImportError):  # what PettingZoo makes of one
            raise UserError(f"environment {name!r}: {told(error)}") from None
        raise
    if isinstance(made, ParallelEnv):
        made = parallel_to_aec(made)
    if not isinstance(made, AECEnv):
        raise UserError(f"environment {name!r}: made {made!r}, neither an AECEnv nor a ParallelEnv")
    env: Env = made
    return env


def find(name: str) -> Callable[..., Any]:
    """What makes the environment of that name.

    Raises:
        UserError: there is none, or importing it fails.
    """
    if "/" in name:
        return _registered(name)
    path, colon, attribute = name.partition(":")
    found: object = _module(name, path)
    if found is None:
        path, _, attribute = path.rpartition(".")
        found = _module(name, path) if path else None
        if found is None:
            raise UserError(f"environment {name!r}: there is no such module; {_HINT}")
    elif not colon:
        makers = [getattr(found, maker) for maker in _MAKERS if hasattr(found, maker)]
        if not makers:
            raise UserError(f"environment {name!r}: has neither env() nor parallel_env()")
        maker: Callable[..., Any] = makers[0]
        return maker
    return _inside(name, path, found, attribute)


def _registered(name: str) -> Callable[..., Any]:
    """What makes the environment of an id such as `classic/chess-v6`."""
    known: dict[str, str] = {}
    for kind in reversed(_KINDS):  # the same one of agents in turn comes first
        known |= dict.fromkeys(getattr(pettingzoo, f"{kind}_registry", ()), kind)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see pettingzoo.pprint_registry()"
        raise UserError(f"environment {name!r}: PettingZoo knows no such id; {hint}")
    return partial(pettingzoo.make, known[name], name)


def _inside(name: str, path: str, module: object, attribute: str) -> Callable[..., Any]:
    found = module
    for part in attribute.split("."):
        inside = found
        found = getattr(inside, part, None)
        if found is None:
            close = difflib.get_close_matches(part, dir(inside), n=1)
            hint = f"did you mean {close[0]!r}?" if close else _HINT
            raise UserError(f"environment {name!r}: no {part!r} in {path}; {hint}")
    if not callable(found):
        raise UserError(f"environment {name!r}: {attribute} is neither a class nor a function")
    return found


def _module(name: str, path: str) -> ModuleType | None:
    """The module at that path; None where there is none."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and (path == error.name or path.startswith(f"{error.name}.")):
            return None
        raise _needs(name, error) from None
    except ImportError as error:
        raise UserError(f"environment {name!r}: {told(error)}") from None


def _needs(name: str, error: ModuleNotFoundError) -> UserError:
    extra = " or pip install 'troupe[pettingzoo]'" if name.startswith("pettingzoo.classic.") else ""
    return UserError(f"environment {name!r}: needs the package {error.name!r}; install it{extra}")
