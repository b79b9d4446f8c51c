"""From a name in a job file to an environment."""

import difflib
import importlib
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from troupe.errors import UserError
from troupe_actors.environments.faults import Patience
from troupe_actors.environments.transition import Driver

Env: TypeAlias = gymnasium.Env[Any, Any]
Maker: TypeAlias = Callable[..., Any]

_NEAR = 3


def make(name: str, options: Mapping[str, object]) -> Env:
    """One environment: a Gymnasium id, or `package.module:Class` (or a function) of your own.

    `options` go to the environment; `max_episode_steps` and `render_mode` mean what they mean to
    `gymnasium.make`. Gymnasium's own checker is left out: what drives the environment checks more.

    Raises:
        UserError: there is no such environment, it needs a package, or takes no such option.
    """
    maker = find(name)
    what = name if maker is None else EnvSpec(id=_identifier(name), entry_point=maker)
    settings = {"disable_env_checker": True, **options}
    try:
        made: Env = gymnasium.make(what, **settings)  # type: ignore[arg-type]
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise UserError(f"environment {name!r}: {_near(name) or _line(error)}") from None
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"environment {name!r}: {_line(error)}") from None
    except ModuleNotFoundError as error:
        raise _missing(name, error) from None
    except TypeError as error:  # an option that it does not take, or lacks; or no Env at all
        raise UserError(f"environment {name!r}: {_line(error)}") from None
    return made


def create(
    name: str,
    options: Mapping[str, object],
    count: int,
    *,
    patience: Patience | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> Driver:
    """`count` environments that are stepped together.

    They are made one by one, which is faster than Gymnasium's vector environments. What is
    vectorised already is used as it is: a dotted path to a subclass of `gymnasium.vector.VectorEnv`
    or to a function, if it takes `num_envs`. `wait` is called with seconds before a restart.

    Raises:
        UserError: there is no such environment, or it cannot be used.
        EnvironmentFaultError: it cannot be made, again and again.
    """
    from troupe_actors.environments.serial import Environments
    from troupe_actors.environments.vectorised import Vectorised

    maker = find(name)
    patience = patience or Patience()
    if maker is not None and is_vectorised(maker):
        return Vectorised(name, _vector_maker(name, maker, options, count), patience, wait)
    return Environments(name, options, count, patience=patience, wait=wait)


def find(name: str) -> Maker | None:
    """What a dotted path names; None where `name` is a Gymnasium id.

    Raises:
        UserError: there is no such module or class.
    """
    module_name, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    dotted = f"{module_name}.{attribute}".split(".")
    if name in gymnasium.registry or not module_name or not all(p.isidentifier() for p in dotted):
        return None
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise _missing(name, error) from None
    for part in attribute.split("."):
        inside = found
        found = getattr(inside, part, None)
        if found is None:
            close = difflib.get_close_matches(part, dir(inside), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"environment {name!r}: no {part!r} in {module_name}{hint}")
    if not callable(found):
        raise UserError(f"environment {name!r}: {attribute} is neither a class nor a function")
    return found


def is_vectorised(maker: Maker) -> bool:
    """Whether what a dotted path names makes many environments at once."""
    if inspect.isclass(maker):
        return issubclass(maker, VectorEnv)
    return "num_envs" in inspect.signature(maker).parameters


def _vector_maker(
    name: str, maker: Maker, options: Mapping[str, object], count: int
) -> Callable[[], VectorEnv[Any, Any, Any]]:
    def make_vector() -> VectorEnv[Any, Any, Any]:
        try:
            made = maker(num_envs=count, **options)
        except TypeError as error:
            raise UserError(f"environment {name!r}: {_line(error)}") from None
        if not isinstance(made, VectorEnv) or made.num_envs != count:
            raise UserError(f"environment {name!r}: made {made!r}, not a VectorEnv of {count}")
        return made

    return make_vector


def _identifier(name: str) -> str:
    """A name of the form that Gymnasium asks of ids."""
    return name.replace(":", ".").rpartition(".")[2]


def _missing(name: str, error: ModuleNotFoundError) -> UserError:
    package = error.name or "?"
    if name.startswith(package):
        remedy = "install it, or put its folder in PYTHONPATH"
        return UserError(f"environment {name!r}: there is no module {package!r}; {remedy}")
    return UserError(f"environment {name!r}: needs the package {package!r}; install it")


def _near(name: str) -> str:
    """A hint at registered ids like `name`; empty where there are none."""
    by_folded = {known.lower(): known for known in gymnasium.registry}
    close = difflib.get_close_matches(name.lower(), by_folded, n=_NEAR, cutoff=0.7)
    names = " or ".join(repr(by_folded[folded]) for folded in close)
    return f"Gymnasium knows no such id; did you mean {names}?" if close else ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
