"""A caller's way to a weight server: where it is now, and what to do while it is away."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from troupe.errors import TroupeError
from troupe.weights.credentials import Tls, metadata
from troupe.weights.errors import UnreachableError, from_call
from troupe.weights.framing import MAX_MESSAGE

T = TypeVar("T")
Address = Callable[[], str | None]
"""Gives `host:port`; None or nothing while the server has not said where it is."""

FETCH = "/troupe.wire.Weights/Fetch"
PUBLISH = "/troupe.wire.Weights/Publish"
OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # A server that is restarted is back within a second: do not wait longer before looking.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Notice within half a minute that the server's machine is gone, though nothing was closed.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
]


def backoff() -> Iterator[float]:
    """Seconds to wait before each next try: doubling up to one, never in step with others."""
    delay = 0.05
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(2 * delay, 1.0)


class Channel:
    """A gRPC channel that follows the server to a new address. Safe to use from many threads."""

    def __init__(self, address: Address, token: str, tls: Tls | None, patience: float) -> None:
        self.metadata = metadata(token)
        self.closed = threading.Event()
        self._address = address
        self._tls = tls
        self._patience = patience
        self._lock = threading.Lock()
        self._target = ""
        self._channel: grpc.Channel | None = None

    @contextmanager
    def calls(self) -> Iterator[grpc.Channel]:
        """A channel to where the server is now; what fails on it is raised as an error of ours.

        Raises:
            UnreachableError: it has not said where it is, or this object is closed.
        """
        channel = self._follow()
        try:
            yield channel
        except grpc.RpcError as error:
            raise from_call(error) from None
        except ValueError:
            # What gRPC says of a channel that another thread has just closed.
            if self.closed.is_set():
                raise UnreachableError("weights: this client is closed") from None
            raise

    def retry(self, call: Callable[[grpc.Channel, float], T]) -> T:
        """Make a call, again and again while the server is away, for as long as patience lasts.

        Args:
            call: is given the channel and the seconds that are left.

        Raises:
            WeightsError: the server's answer, or UnreachableError where there was none in time.
        """
        deadline = time.monotonic() + self._patience
        for delay in backoff():
            try:
                with self.calls() as channel:
                    return call(channel, max(deadline - time.monotonic(), delay))
            except UnreachableError:
                late = time.monotonic() + delay > deadline
                if late or self.closed.wait(delay):
                    raise
        raise AssertionError("backoff never ends")

    def close(self) -> None:
        """End all calls; later ones fail."""
        with self._lock:
            self.closed.set()
            if self._channel is not None:
                self._channel.close()

    def _follow(self) -> grpc.Channel:
        try:
            target = self._address()
        except TroupeError as error:
            raise UnreachableError(f"weights: nobody says where the server is: {error}") from None
        with self._lock:
            if self.closed.is_set():
                raise UnreachableError("weights: this client is closed")
            if not target:
                raise UnreachableError("weights: the server has not said yet where it is")
            if self._channel is None or target != self._target:
                # Whoever still calls on the old channel keeps it; nobody else does.
                self._channel, self._target = self._connect(target), target
            return self._channel

    def _connect(self, target: str) -> grpc.Channel:
        if self._tls is None:
            return grpc.insecure_channel(target, OPTIONS)
        return grpc.secure_channel(target, self._tls.channel(), [*OPTIONS, *self._tls.options()])
