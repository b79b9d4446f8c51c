"""New weights on their way to the actors, beside the training."""

import logging
import threading
import time
from functools import partial
from types import TracebackType

from troupe.episodes import Columns
from troupe.metrics import Metrics
from troupe.store.replay import ReplayLog
from troupe.weights.client import WeightsClient
from troupe.weights.errors import NotNewerError, UnreachableError
from troupe_learners.background import Background

log = logging.getLogger("troupe.learner")

_RETRY_SECONDS = 0.5
_LOOK_SECONDS = 0.2
_LAST_SECONDS = 2.0


class Publisher:
    """Publishes one version at a time. Whoever publishes the next one waits for the one before."""

    def __init__(
        self,
        weights: WeightsClient,
        replay: ReplayLog,
        metrics: Metrics,
        stop: threading.Event,
        every: float = 0.0,
    ) -> None:
        """`every`: seconds from one version of a policy to the next; those between are left out."""
        self._weights = weights
        self._replay = replay
        self._metrics = metrics
        self._stop = stop
        self._every = every
        self._due: dict[str, float] = {}
        self._left_out: dict[str, tuple[int, Columns]] = {}
        """By policy, the newest version, where it came too soon after the one before."""
        self._background = Background("publisher")

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._background.__exit__(kind, error, trace)

    def publish(self, policy: str, version: int, weights: Columns) -> None:
        """Start to publish; `weights` must not change any more. Raises what the last one raised.

        Once the run is told to stop, a version that would have to wait is left out.
        """
        now = time.monotonic()
        if now < self._due.get(policy, 0.0):
            self._left_out[policy] = version, weights
            return
        self._due[policy] = now + self._every
        self._left_out.pop(policy, None)
        self.settle()
        if not self._stop.is_set() or self._background.finish(0):
            self._background.run(partial(self._send, policy, version, weights))

    def settle(self) -> None:
        """Wait for the last version to be published, or to be told to stop. Raises what that raised."""
        while not self._background.finish(_LOOK_SECONDS) and not self._stop.is_set():
            pass

    def finish(self) -> None:
        """Publish what was left out, and wait a little for it. Raises what that raised."""
        self._due.clear()
        for policy, (version, weights) in list(self._left_out.items()):
            self.publish(policy, version, weights)
        self._background.finish(_LAST_SECONDS)

    def _send(self, policy: str, version: int, weights: Columns) -> None:
        while True:
            try:
                self._weights.publish(policy, version, weights)
                break
            except NotNewerError:
                # A learner that died had come further; until this one is there too, actors keep
                # the weights they have.
                self._metrics.add("republished")
                break
            except UnreachableError as error:
                self._metrics.add("publish_retries")
                log.warning("%s; trying again", error)
                if self._stop.wait(_RETRY_SECONDS):
                    return
        self._replay.published(policy, version)
