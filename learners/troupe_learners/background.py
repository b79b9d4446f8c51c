"""Work beside the training: one call at a time, and none waiting behind it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
        # A call that hangs is not waited for: whoever wanted its result has called `finish`.
        self._executor.shutdown(wait=False)

    def run(self, call: Callable[[], None]) -> None:
        """Start a call.

        Raises:
            RuntimeError: the one before it was not finished.
        """
        if self._running is not None:
            raise RuntimeError("the call before this one is not finished")
        self._running = self._executor.submit(call)

    def finish(self, timeout: float | None = None) -> bool:
        """Wait for the last call to return; whether it did in time. Raises what it raised."""
        if self._running is not None:
            done, _ = wait([self._running], timeout)
            if not done:
                return False
            running, self._running = self._running, None
            running.result()
        return True
