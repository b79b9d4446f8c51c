"""Work in a process of its own: what it imports, torch above all, is gone with it."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import ParamSpec, TypeVar

from troupe.errors import TroupeError

P = ParamSpec("P")
T = TypeVar("T")


def aside(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Call a function in another process, which ends with the call and with this process.

    Raises:
        TroupeError: the process crashed or was killed.
        Exception: whatever the function raised.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            return pool.submit(work, *args, **options).result()
        except BrokenProcessPool:
            raise TroupeError(
                "the process that looks at the job was killed, or crashed in code that the job names"
            ) from None


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
