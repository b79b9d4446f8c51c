"""A client's background thread that hears of new versions."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from troupe.episodes import Array
from troupe.weights.channel import Channel, backoff
from troupe.weights.errors import RefusedError, UnreachableError, WeightsError
from troupe.weights.manifest import CARRY, Key, bfloat16_of, check, key_of, tensors_of, verify
from troupe.wire.weights_pb2 import Notice, Notices, WatchRequest
from troupe.wire.weights_pb2_grpc import WeightsStub

log = logging.getLogger(__name__)


_CARRIED = 10
"""Versions of a policy that are held: what is played may lag behind what is newest."""


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """One version of a policy's weights. The arrays are read-only views of one buffer or file."""

    policy: str
    version: int
    tensors: Mapping[str, Array]
    bfloat16: frozenset[str] = frozenset()
    """Names of the uint16 tensors that hold the bits of bfloat16 numbers."""
    attempt: int = 0


class Watch:
    """What is newest, as far as the server has said. The thread starts with the first question.

    Small versions come with their notice, so that nothing remains to be fetched.
    """

    def __init__(self, channel: Channel, max_bytes: int) -> None:
        self._carry = min(CARRY, max_bytes)
        self._channel = channel
        self._newest: dict[str, Key] = {}
        self._carried: dict[str, dict[Key, Weights]] = {}
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

    def carried(self, policy: str, version: int | None) -> Weights | None:
        """A version, or the newest one, that came with its notice; None if it did not.

        Where attempts share its number, it is the newest attempt's.
        """
        with self._news:
            held, newest = self._carried.get(policy, {}), self._newest.get(policy)
            if newest is not None and version in (None, newest.version):
                return held.get(newest)
            keys = [key for key in held if key.version == version]
            return held[max(keys)] if keys else None

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
                        WatchRequest(carry=self._carry), metadata=self._channel.metadata
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
        arrived = [weights for notice in notices.newest if (weights := unpack(notice))]
        with self._news:
            for notice in notices.newest:
                self._newest[notice.policy] = Key(notice.attempt, notice.version)
            for weights in arrived:
                held = self._carried.setdefault(weights.policy, {})
                held[Key(weights.attempt, weights.version)] = weights
                for old in sorted(held)[:-_CARRIED]:
                    del held[old]
            self._heard = True
            self._news.notify_all()

    def _is_newer(self, policy: str, version: int) -> bool:
        key = self._newest.get(policy)
        return key is not None and key.version > version


def unpack(notice: Notice) -> Weights | None:
    """The version that came with its notice. One that is not sound is left to be fetched."""
    if not notice.HasField("whole"):
        return None
    manifest, payload = notice.whole.manifest, memoryview(notice.whole.payload)
    try:
        check(manifest, CARRY)
        verify(manifest, payload)
    except WeightsError as error:
        log.warning("%s", error)
        return None
    key = key_of(manifest)
    if (manifest.policy, key) != (notice.policy, Key(notice.attempt, notice.version)):
        log.warning("weights: a notice of %s came with another version", notice.policy)
        return None
    tensors = tensors_of(manifest, payload)
    return Weights(notice.policy, key.version, tensors, bfloat16_of(manifest), key.attempt)
