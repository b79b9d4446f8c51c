"""A client's background thread that hears of new versions."""

import logging
import threading

from troupe.weights.channel import Channel, backoff
from troupe.weights.errors import RefusedError, UnreachableError, WeightsError
from troupe.weights.manifest import Key
from troupe.wire.weights_pb2 import Notices, WatchRequest
from troupe.wire.weights_pb2_grpc import WeightsStub

log = logging.getLogger(__name__)


class Watch:
    """What is newest, as far as the server has said. The thread starts with the first question."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._newest: dict[str, Key] = {}
        self._heard = False
        self._failure: WeightsError | None = None
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
            self._news.wait_for(lambda: self._heard or self._failure, patience)
            if not self._heard:
                raise self._failure or UnreachableError("weights: the server does not answer")
            return self._newest.get(policy)

    def wait(self, policy: str, newer_than: int, timeout: float) -> Key | None:
        """Wait for a version above `newer_than`; None if there was none in `timeout` seconds.

        Raises:
            UnreachableError: the client was closed.
            RefusedError: the server does not accept the token.
        """
        with self._news:
            self._start()
            self._news.wait_for(
                lambda: self._is_newer(policy, newer_than) or self._failure, timeout
            )
            if self._is_newer(policy, newer_than):
                return self._newest[policy]
            if self._failure is not None:
                raise self._failure
            return None

    def join(self) -> None:
        """Wait for the end of the thread, after the channel was closed."""
        with self._news:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="weights-watch", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        """Listen until there is no use in it any more, and tell those who wait why."""
        delay, delays = 0.0, backoff()
        failure: WeightsError = UnreachableError("weights: this client is closed")
        while not self._channel.closed.wait(delay):
            delay = next(delays)
            try:
                with self._channel.calls() as channel:
                    call = WeightsStub(channel).Watch(
                        WatchRequest(), metadata=self._channel.metadata
                    )
                    for notices in call:
                        self._hear(notices)
                        delays = backoff()
            except RefusedError as error:
                failure = error
                break
            except WeightsError as error:
                log.info("%s; watching again in %.2f s", error, delay)
        with self._news:
            self._failure = failure
            self._news.notify_all()

    def _hear(self, notices: Notices) -> None:
        with self._news:
            for notice in notices.newest:
                self._newest[notice.policy] = Key(notice.attempt, notice.version)
            self._heard = True
            self._news.notify_all()

    def _is_newer(self, policy: str, version: int) -> bool:
        key = self._newest.get(policy)
        return key is not None and key.version > version
