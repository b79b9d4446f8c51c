"""From the store into the learner's feed: a thread that takes blocks as they come."""

import logging
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from troupe.checkpoint import Position
from troupe.errors import TroupeError
from troupe.metrics import Metrics
from troupe.store import StoreEmptiedError
from troupe.store.replay import ReplayLog, Taken
from troupe_learners.algorithms import Algorithm
from troupe_learners.feed import Feed

log = logging.getLogger("troupe.learner")

_BLOCKS = 8
_WAIT_SECONDS = 0.2
_LOOK_SECONDS = 0.5


class Intake:
    """Tails the log from the feed's position on. What may wait is bounded by the log's own limits.

    Args:
        replay: the log.
        feed: where blocks go.
        learners: by policy, the algorithm that learns from its blocks.
        metrics: told how the log stands.
    """

    def __init__(
        self, replay: ReplayLog, feed: Feed, learners: Mapping[str, Algorithm], metrics: Metrics
    ) -> None:
        self.checkpoint_wanted = threading.Event()
        """Set while the store runs short of room for what is not acknowledged."""
        self.emptied = threading.Event()
        """Set when the store came back without its memory, until `resume`."""
        self._replay = replay
        self._feed = feed
        self._learners = learners
        self._metrics = metrics
        self._after = feed.position().after
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._looked = 0.0
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def __enter__(self) -> "Intake":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._thread.join()

    def gather(self) -> None:
        """Blocks come by themselves: raise what ended the thread, if something did."""
        if self._error is not None:
            raise self._error

    def resume(self, position: Position) -> None:
        """Go on after the store was emptied, in its new memory."""
        self._feed.restart(position)
        self._after = position.after
        self.emptied.clear()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                if self.emptied.is_set():
                    self._closing.wait(_WAIT_SECONDS)
                    continue
                self._take()
                self._look()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread by `gather`
            self._error = error
            self._feed.wake()

    def _take(self) -> None:
        try:
            blocks = self._replay.take(self._after, count=_BLOCKS, timeout=_WAIT_SECONDS)
        except StoreEmptiedError as error:
            log.warning("%s; going on with new blocks", error)
            self.emptied.set()
            return
        for taken in blocks:
            self._accept(taken)
            self._after = taken.id

    def _accept(self, taken: Taken) -> None:
        block = taken.block
        algorithm = self._learners.get(block.policy)
        if algorithm is None:
            raise TroupeError(
                f"store: a block of {block.actor} is for policy {block.policy!r}, which this run "
                f"does not train; it trains {', '.join(sorted(self._learners))}"
            )
        consumed = self._feed.put(taken, algorithm.credit(block))
        if consumed:
            self._replay.sampled(consumed)

    def _look(self) -> None:
        """See how the log stands, now and then."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        state = self._replay.state()
        self._metrics.set("backlog_steps", state.backlog)
        self._metrics.set("waiting_for", state.waiting)
        self._metrics.set("damaged_blocks", self._replay.damaged)
        if state.checkpoint_wanted:
            self.checkpoint_wanted.set()
        else:
            self.checkpoint_wanted.clear()
