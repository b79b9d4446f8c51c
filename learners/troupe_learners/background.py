"""Work beside the training: one thing at a time, never more than one waiting."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """Runs one call at a time on a thread of its own."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._running: Future[None] | None = None

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(wait=True)

    @property
    def busy(self) -> bool:
        """Whether the last call has not returned yet."""
        return self._running is not None and not self._running.done()

    def run(self, call: Callable[[], None]) -> None:
        """Start a call once the one before it has returned. Raises what that one raised."""
        self.finish()
        self._running = self._executor.submit(call)

    def finish(self) -> None:
        """Wait for the last call to return. Raises what it raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
