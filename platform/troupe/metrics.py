"""What a process tells about itself: named counters and gauges, put on the board once a second."""

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, TypeAlias

import psutil
from redis.exceptions import RedisError

from troupe.errors import TroupeError

Value: TypeAlias = float | str
"""A number, or a few words such as the value of `waiting_for`."""

COUNTERS = "counters"
"""The field of a snapshot that names its counters, separated by spaces. All others are gauges."""
STARTED = "started"
UPTIME = "uptime"
PATIENCE = 2.0
"""Seconds that a process waits at its end for a report that is under way."""


class Noticeboard(Protocol):
    """Where processes of one run leave snapshots and learn that they should stop."""

    def snapshot(self, process: str, values: Mapping[str, Value], /) -> None:
        """Replace what is known of a process."""
        ...

    def stop_requested(self) -> object:
        """Something true once the run was told to stop."""
        ...


class Metrics:
    """The counters and gauges of one process. Any thread may use it; a call takes well under 1 us."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: defaultdict[str, float] = defaultdict(float)
        self._gauges: dict[str, Value] = {}

    def add(self, name: str, amount: float = 1.0) -> None:
        """Count `amount` more. Counters start at 0 with the process and never fall."""
        with self._lock:
            self._counters[name] += amount

    def set(self, name: str, value: Value) -> None:
        """Say how something stands now; the newest value counts."""
        with self._lock:
            self._gauges[name] = value

    def snapshot(self) -> dict[str, Value]:
        """All counters and gauges by name."""
        with self._lock:
            return {**self._gauges, **self._counters}

    def counters(self) -> list[str]:
        """The names that `add` was called with."""
        with self._lock:
            return list(self._counters)


class Reporter:
    """Puts a process's metrics on the board once a second, and reads from it whether to stop.

    A store that cannot be reached ends nothing: the beat is lost, counted in `outages`, and the
    next one carries the same totals. Leaving the context reports once more, unless the store is away.
    """

    def __init__(
        self,
        metrics: Metrics,
        board: Noticeboard,
        process: str,
        *,
        every: float = 1.0,
        alone: bool = True,
    ) -> None:
        """`alone`: this process is nobody else's, so its memory and time are told too."""
        self.stop = threading.Event()
        """Set once the run was told to stop."""
        self.process = process
        self._metrics = metrics
        self._board = board
        self._every = every
        self._alone = alone
        self._system = psutil.Process()
        self._started = time.time()
        self._start = time.monotonic()
        self._reachable = True
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def __enter__(self) -> "Reporter":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._thread.join(PATIENCE)
        if self._reachable and not self._thread.is_alive():
            self.beat()

    def beat(self) -> None:
        """Report once and look at the stop flag."""
        try:
            self._board.snapshot(self.process, self.values())
            stopping = self._board.stop_requested()
        except (TroupeError, RedisError, OSError):
            self._metrics.add("outages")
            self._reachable = False
            return
        self._reachable = True
        if stopping:
            self.stop.set()

    def values(self) -> dict[str, Value]:
        """The snapshot as it goes to the board: metrics, what the system knows, what are counters."""
        used = {
            "rss_mb": self._system.memory_info().rss / 2**20,
            "cpu_seconds": time.process_time(),
        }
        return {
            **self._metrics.snapshot(),
            **(used if self._alone else {}),
            STARTED: self._started,
            UPTIME: time.monotonic() - self._start,
            COUNTERS: " ".join(self._metrics.counters()),
        }

    def _run(self) -> None:
        while not self._closing.wait(self._every):
            self.beat()
