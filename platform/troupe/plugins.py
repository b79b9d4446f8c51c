"""Games, algorithms and agents are files of a folder, found by their name, or a dotted path elsewhere."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from types import ModuleType

from troupe.errors import UserError


def names(package: str) -> list[str]:
    """The files and folders of a package that can be found by name."""
    paths = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_"))


def find(
    package: str, name: str, key: str, known: Callable[[], Sequence[str]] | None = None
) -> ModuleType:
    """The module `name` of `package`, or the one at the dotted path `name`.

    For the error, `key` is the path of the name in the job file, and `known` lists what may stand
    there (without it, all files of the package).

    Raises:
        UserError: there is no such module, or it needs an extra that is not installed.
    """
    path = name if "." in name else f"{package}.{name}"
    try:
        if not all(part.isidentifier() for part in path.split(".")):  # such as `../mine`
            raise ModuleNotFoundError
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and not path.startswith(error.name):
            raise UserError(
                f"{key}: {name!r} needs the package {error.name!r}; install it"
            ) from None
        there = known() if known else names(package)
        close = difflib.get_close_matches(name, there, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(there)}"
        raise UserError(
            f"{key}: no {name!r}; {hint} (a module of your own: its dotted path)"
        ) from None
