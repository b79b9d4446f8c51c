"""How this game is compiled: by Numba, on first use, kept in its cache on disk."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` to machine code without the GIL; integers in it are 64 bits and wrap."""
    made = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast(Callable[P, R], made)
