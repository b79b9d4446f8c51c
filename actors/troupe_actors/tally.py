"""What an actor tells of what it played, as counters and gauges."""

from collections import defaultdict, deque

import numpy as np

from troupe.metrics import Metrics
from troupe_actors.sources import Played, Score

_NEWEST = 100
"""Episodes whose mean return is told."""


class Tally:
    """Counts what was played, and keeps the mean return and length of each policy's newest episodes."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._newest: defaultdict[str, deque[tuple[float, int]]] = defaultdict(
            lambda: deque(maxlen=_NEWEST)
        )

    def add(self, played: Played) -> None:
        """Take in what came of playing for a while."""
        self._metrics.add("decisions", played.decisions)
        self._metrics.add("forced", played.forced)
        self._metrics.add("episodes", played.episodes)
        self._metrics.add("env_restarts", played.restarts)
        for score in played.scores:
            self._score(score)

    def _score(self, score: Score) -> None:
        newest = self._newest[score.policy]
        newest.extend(zip(score.returns.tolist(), score.lengths.tolist(), strict=True))
        returned, length = np.mean(list(newest), axis=0).tolist()
        self._metrics.set(f"return/{score.policy}", returned)
        self._metrics.set(f"length/{score.policy}", length)
