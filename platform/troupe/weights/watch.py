"""A client's background thread that hears of new versions."""

import threading
import time

import grpc

from troupe.weights.channel import Channel, backoff
from troupe.weights.errors import RefusedError, UnreachableError, from_call
from troupe.weights.manifest import Key
from troupe.wire.weights_pb2 import Notices, WatchRequest
from troupe.wire.weights_pb2_grpc import WeightsStub


class Watch:
    """What is newest, as far as the server has said. The thread starts with the first question."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._newest: dict[str, Key] = {}
        self._heard = False
        self._refused: RefusedError | None = None
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    def newest(self, policy: str, patience: float) -> Key | None:
        """The newest version of a policy, without asking the server again.

        Only before the server's first answer this waits, at most `patience` seconds.

        Raises:
            UnreachableError: there was no first answer.
            RefusedError: the server does not accept the token.
        """
        with self._news:
            self._start()
            self._news.wait_for(lambda: self._heard or self._refused, patience)
            self._check_refused()
            if not self._heard:
                raise UnreachableError(f"weights: no answer from the server in {patience:g} s")
            return self._newest.get(policy)

    def wait(self, policy: str, newer_than: int, timeout: float) -> Key | None:
        """Wait for a version above `newer_than`; None if there was none in `timeout` seconds.

        Raises:
            RefusedError: the server does not accept the token.
        """
        with self._news:
            self._start()
            self._news.wait_for(
                lambda: self._refused or self._is_newer(policy, newer_than), timeout
            )
            self._check_refused()
            return self._newest[policy] if self._is_newer(policy, newer_than) else None

    def join(self) -> None:
        """Wait for the end of the thread, after the channel was closed."""
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="weights-watch", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        delays = backoff()
        while not self._channel.closed.is_set():
            started = time.monotonic()
            try:
                call = WeightsStub(self._channel.open()).Watch(
                    WatchRequest(), metadata=self._channel.metadata
                )
                for notices in call:
                    self._hear(notices)
            except grpc.RpcError as error:
                failure = from_call(error)
                if isinstance(failure, RefusedError):
                    self._give_up(failure)
                    return
            except UnreachableError:
                pass
            if time.monotonic() - started > 5:
                delays = backoff()
            self._channel.closed.wait(next(delays))

    def _hear(self, notices: Notices) -> None:
        with self._news:
            for notice in notices.newest:
                self._newest[notice.policy] = Key(notice.attempt, notice.version)
            self._heard = True
            self._news.notify_all()

    def _give_up(self, failure: RefusedError) -> None:
        with self._news:
            self._refused = failure
            self._news.notify_all()

    def _check_refused(self) -> None:
        if self._refused is not None:
            raise self._refused

    def _is_newer(self, policy: str, version: int) -> bool:
        key = self._newest.get(policy)
        return key is not None and key.version > version
