"""How an actor comes by weights: the newest there are, or exactly those that it is to play with."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from troupe.jobs.setting import Connections
from troupe.weights.client import Weights
from troupe.weights.errors import DamagedError, MissingError, UnreachableError

log = logging.getLogger("troupe.actor")

_WAIT_SECONDS = 0.5


class Following:
    """Hands the weights of each policy to whoever acts with them, between two looks.

    Args:
        ends: where weights come from, and who is told.
        takers: by policy, who takes them.
    """

    def __init__(self, ends: Connections, takers: Mapping[str, Callable[[Weights], None]]) -> None:
        self.versions = dict.fromkeys(takers, -1)
        """By policy, the version that was handed over; below 0 before any was."""
        self._weights = ends.weights
        self._metrics = ends.metrics
        self._stop = ends.reporter.stop
        self._takers = takers
        self._fetcher = ThreadPoolExecutor(1, "weights-fetch")
        self._coming: dict[str, Future[Weights]] = {}
        """Weights that were sent for."""

    def close(self) -> None:
        """Let go of what is still coming."""
        self._fetcher.shutdown(wait=False, cancel_futures=True)

    def first(self) -> bool:
        """Take the first weights of every policy; false if told to stop before they are there."""
        for policy in self._takers:
            if not self._wait(policy, 0):
                return False
            self._take(policy, self._weights.fetch(policy))
        return True

    def refresh(self) -> None:
        """Swap in newer weights that have come, and send for those that have not.

        Meanwhile, and while they cannot be had, playing goes on with those that are here.
        """
        for policy, version in self.versions.items():
            if policy not in self._coming:
                if self._weights.latest(policy) in (None, version):
                    continue
                if weights := self._weights.at_hand(policy):
                    self._take(policy, weights)
                else:
                    self._coming[policy] = self._fetcher.submit(self._weights.fetch, policy)
            elif self._coming[policy].done():
                try:
                    self._take(policy, self._coming.pop(policy).result())
                except (DamagedError, MissingError, UnreachableError) as error:
                    self._metrics.add("weight_misses")
                    log.info("%s; trying again", error)

    def exactly(self, version: int) -> bool:
        """Take this version of every policy; false if told to stop before it is there."""
        for policy, held in self.versions.items():
            if held != version:
                if not self._wait(policy, version):
                    return False
                self._take(policy, self._weights.fetch(policy, version))
        return True

    def _wait(self, policy: str, version: int) -> bool:
        """Wait for a version or a newer one; false if told to stop before it is there."""
        waited = False
        while self._weights.wait(policy, version - 1, _WAIT_SECONDS) is None:
            waited = True
            self._metrics.set("waiting_for", f"version {version} of {policy}")
            if self._stop.is_set():
                return False
        if waited:
            self._metrics.set("waiting_for", "")
        return True

    def _take(self, policy: str, weights: Weights) -> None:
        self._takers[policy](weights)
        self.versions[policy] = weights.version
        self._metrics.add("weight_updates")
        self._metrics.set(f"version/{policy}", weights.version)
