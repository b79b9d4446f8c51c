"""How this game is compiled: by Numba, on first use, and kept on disk."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")

_SOURCES: Final = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).digest()


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` to machine code that runs without the GIL; its integers wrap at 64 bits.

    The code is kept beside the source or, where that cannot be written, in the user's cache.
    """
    made: Any = numba.njit(nogil=True, error_model="numpy")(function)
    try:
        made.enable_caching()
    except RuntimeError:  # no folder can be written: every process compiles for itself
        return cast(Callable[P, R], made)
    # Numba watches only the file of the function itself, but what it calls is compiled into it.
    kept = made._cache._cache_file
    kept._source_stamp = (kept._source_stamp, _SOURCES)
    return cast(Callable[P, R], made)
