"""One process over time, as its snapshots tell it."""

from collections import defaultdict, deque
from collections.abc import Mapping

from troupe.metrics import COUNTERS, STARTED, UPTIME

WINDOW = 10.0
"""Seconds that a rate looks back."""
SILENT = 10.0
"""Seconds without news after which a process no longer counts."""


class Track:
    """A process through its incarnations: totals that survive restarts, gauges, and rates.

    Rates are measured on the process's own clock, so that it does not matter when a snapshot is
    read.
    """

    def __init__(self) -> None:
        self.restarts = 0
        self.gauges: dict[str, float] = {}
        self.waiting_for = ""
        self._before: defaultdict[str, float] = defaultdict(float)
        self._counters: dict[str, float] = {}
        self._started = 0.0
        self._seen: tuple[object, object] = (None, None)
        self._news_at = 0.0
        self._history: deque[tuple[float, dict[str, float]]] = deque()

    def observe(self, snapshot: Mapping[str, object], now: float) -> None:
        """Take in the newest snapshot, read at `now`; it may be the same as the one before."""
        seen = snapshot.get(STARTED), snapshot.get(UPTIME)
        if self._history and seen == self._seen:
            return
        self._seen, self._news_at = seen, now
        numbers = {k: float(v) for k, v in snapshot.items() if isinstance(v, int | float)}
        started, uptime = numbers.pop(STARTED, 0.0), numbers.pop(UPTIME, 0.0)
        if started != self._started:
            self._begin(started)
        names = str(snapshot.get(COUNTERS, "")).split()
        self._counters = {name: numbers[name] for name in names if name in numbers}
        self.gauges = {k: v for k, v in numbers.items() if k not in self._counters}
        self.waiting_for = str(snapshot.get("waiting_for", ""))
        self._remember(uptime, numbers)

    def alive(self, now: float) -> bool:
        """Whether the process was heard of lately."""
        return now - self._news_at < SILENT

    def totals(self) -> dict[str, float]:
        """All counters, summed over incarnations."""
        names = {*self._before, *self._counters}
        return {name: self._before[name] + self._counters.get(name, 0.0) for name in names}

    def rate(self, name: str) -> float:
        """How much a counter or a gauge that counts grew per second; 0 as long as that is unknown."""
        (first, before), (last, after) = self._history[0], self._history[-1]
        grown = after.get(name, 0.0) - before.get(name, 0.0)
        return max(grown, 0.0) / (last - first) if last > first else 0.0

    def _begin(self, started: float) -> None:
        self.restarts += self._started > 0
        self._started = started
        self._history.clear()
        for name, value in self._counters.items():
            self._before[name] += value
        self._counters = {}

    def _remember(self, uptime: float, numbers: dict[str, float]) -> None:
        self._history.append((uptime, numbers))
        while len(self._history) > 2 and uptime - self._history[1][0] >= WINDOW:
            self._history.popleft()
