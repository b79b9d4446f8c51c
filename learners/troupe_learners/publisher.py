"""New weights on their way to the actors, beside the training."""

import logging
from collections.abc import Callable
from functools import partial
from types import TracebackType

from troupe.episodes import Columns
from troupe.jobs.setting import Connections
from troupe.weights.errors import NotNewerError, UnreachableError
from troupe_learners.background import Background

log = logging.getLogger("troupe.learner")

_RETRY_SECONDS = 0.5


class Publisher:
    """Publishes one version at a time. Whoever publishes the next one waits for the one before."""

    def __init__(self, ends: Connections) -> None:
        self._ends = ends
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
        """Start to publish; `weights` must not change any more. Raises what the last one raised."""
        send: Callable[[], None] = partial(self._publish, policy, version, weights)
        self._background.run(send)

    def finish(self) -> None:
        """Wait until the last version is published. Raises what that raised."""
        self._background.finish()

    def _publish(self, policy: str, version: int, weights: Columns) -> None:
        while True:
            try:
                self._ends.weights.publish(policy, version, weights)
                break
            except NotNewerError:
                # A learner that died had come further; until this one is there too, actors keep
                # the weights they have.
                self._ends.metrics.add("republished")
                break
            except UnreachableError as error:
                self._ends.metrics.add("publish_retries")
                log.warning("%s; trying again", error)
                if self._ends.reporter.stop.wait(_RETRY_SECONDS):
                    return
        self._ends.replay.published(policy, version)
