"""What learners and actors see of the weight server: publish, latest, wait, fetch, pin."""

import fcntl
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc

from troupe.episodes import Array
from troupe.weights import framing
from troupe.weights.channel import FETCH, PUBLISH, Address, Channel
from troupe.weights.credentials import Tls
from troupe.weights.errors import DamagedError, MissingError, UnreachableError
from troupe.weights.files import Shelf, Stored
from troupe.weights.manifest import CARRY, Key, bfloat16_of, check, describe, key_of
from troupe.weights.memory import keep_large_buffers
from troupe.weights.watch import Watch, Weights
from troupe.wire.weights_pb2 import FetchRequest, Manifest, PinRequest, PublishReply, Whole
from troupe.wire.weights_pb2_grpc import WeightsStub

MAX_BYTES = 64 << 30
KEEP = 2

__all__ = ["KEEP", "MAX_BYTES", "Weights", "WeightsClient"]

_POLL = 0.002


class WeightsClient:
    """A synchronous client; all of it may be called from any thread.

    While the server is away, calls wait and try again, `patience` seconds long.
    """

    def __init__(
        self,
        address: Address,
        *,
        token: str,
        folder: Path,
        served: Sequence[Path] = (),
        tls: Tls | None = None,
        attempt: int = 0,
        publisher: str = "learner-0",
        patience: float = 60.0,
        keep: int = KEEP,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Nothing is connected before the first call.

        Args:
            address: gives `host:port` of the server as it is now, or None while it is not known.
            folder: memory-backed and shared by the processes of a node: each version is fetched
                there once.
            served: folders of a server or relay on this node: what they hold is not fetched.
            attempt: how often the run had been started before; goes with what is published.
            publisher: who publishes, such as `learner-0`.
            keep: newest versions of each policy that stay in `folder`.
        """
        keep_large_buffers()
        self._channel = Channel(address, token, tls, patience)
        self._watch = Watch(self._channel, max_bytes)
        self._shelf = Shelf(folder)
        self._shelves = [*map(Shelf, served), self._shelf]
        """Where versions are found that this node has already."""
        self._attempt = attempt
        self._publisher = publisher
        self._patience = patience
        self._keep = keep
        self._max_bytes = max_bytes

    def publish(
        self,
        policy: str,
        version: int,
        tensors: Mapping[str, Array],
        bfloat16: Collection[str] = (),
    ) -> None:
        """Make a version the newest one. Publishing the same one again changes nothing.

        Args:
            bfloat16: names of uint16 tensors that hold the bits of bfloat16 numbers.

        Raises:
            NotNewerError: this attempt has published that version or a newer one.
            FencedError: a later attempt of the run has begun.
            WeightsError: it could not be published for another reason.
        """
        payload = describe(
            policy,
            Key(self._attempt, version),
            tensors,
            publisher=self._publisher,
            bfloat16=bfloat16,
        )

        def put(channel: grpc.Channel, timeout: float) -> PublishReply:
            whole = Whole(manifest=payload.manifest, payload=b"".join(payload.buffers))
            return WeightsStub(channel).Put(whole, timeout=timeout, metadata=self._channel.metadata)

        def send(channel: grpc.Channel, timeout: float) -> PublishReply:
            publish: grpc.StreamUnaryMultiCallable[bytes, PublishReply] = channel.stream_unary(
                PUBLISH, None, PublishReply.FromString
            )
            messages = _opened(payload.manifest, framing.frames(payload.buffers))
            return publish(messages, timeout=timeout, metadata=self._channel.metadata)

        self._channel.retry(put if payload.manifest.size <= CARRY else send)

    def latest(self, policy: str) -> int | None:
        """The newest version there is, None if there is none; costs a dictionary look-up.

        Only the first call of all waits, for the server's first answer.

        Raises:
            UnreachableError: the server has not answered in time.
            RefusedError: it does not accept the token.
        """
        key = self._watch.newest(policy, self._patience)
        return None if key is None else key.version

    def wait(self, policy: str, newer_than: int, timeout: float) -> int | None:
        """Wait for a version above `newer_than`; None if there was none in `timeout` seconds."""
        key = self._watch.wait(policy, newer_than, timeout)
        return None if key is None else key.version

    def at_hand(self, policy: str) -> Weights | None:
        """The newest version, if this node has it; else it is to be fetched."""
        return self._watch.carried(policy, None) or self._cached(policy, self._known(policy, None))

    def fetch(self, policy: str, version: int | None = None) -> Weights:
        """A version, or the newest one: whole and verified.

        Raises:
            MissingError: there is no such version, or no longer.
            DamagedError: what arrived does not match its checksums.
            WeightsError: it could not be fetched for another reason.
        """
        wanted = self._known(policy, version)
        found = self._watch.carried(policy, version) or self._cached(policy, wanted)
        if found is None:
            with self._locked(policy):
                found = self._cached(policy, wanted) or _weights(
                    policy,
                    self._channel.retry(
                        lambda channel, timeout: self._download(policy, version, channel, timeout)
                    ),
                )
        return found

    def pin(self, policy: str, version: int) -> None:
        """Keep a version in the run's folder for as long as the run is kept.

        Raises:
            MissingError: there is no such version, or no longer.
        """
        request = PinRequest(policy=policy, version=version)
        self._channel.retry(
            lambda channel, timeout: WeightsStub(channel).Pin(
                request, timeout=timeout, metadata=self._channel.metadata
            )
        )

    def close(self) -> None:
        """End all calls, also those that wait in other threads."""
        self._channel.close()
        self._watch.join()

    def _known(self, policy: str, version: int | None) -> Key | None:
        """The key of a version, or of the newest one, as far as it is known here."""
        newest = self._watch.newest(policy, self._patience)
        return newest if version is None or newest is None else Key(newest.attempt, version)

    def _cached(self, policy: str, key: Key | None) -> Weights | None:
        """A version that this node has: the server is here, or another process has fetched it."""
        if key is not None:
            for shelf in self._shelves:
                with suppress(MissingError, DamagedError):
                    return _weights(policy, shelf.open(policy, key))
        return None

    def _download(
        self, policy: str, version: int | None, channel: grpc.Channel, timeout: float
    ) -> Stored:
        """Fetch into the node's folder; the caller holds its lock."""
        self._shelf.sweep(policy)
        fetch: grpc.UnaryStreamMultiCallable[FetchRequest, bytes] = channel.unary_stream(
            FETCH, FetchRequest.SerializeToString, None
        )
        request = FetchRequest(policy=policy, version=version)
        call = fetch(request, timeout=timeout, metadata=self._channel.metadata)
        try:
            manifest = framing.read_opening(next(call, b""))
            check(manifest, self._max_bytes)
            with self._shelf.incoming(manifest) as incoming:
                for message in call:
                    incoming.write(framing.unframe(message))
                stored = incoming.commit()
        finally:
            call.cancel()
        self._shelf.keep(policy, self._keep, besides=key_of(manifest))
        return stored

    @contextmanager
    def _locked(self, policy: str) -> Iterator[None]:
        """Hold this node's lock on a policy; a process that dies lets go of it."""
        handle = os.open(self._shelf.folder / f"{policy}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = time.monotonic() + self._patience
            while not _try_lock(handle):
                if time.monotonic() > deadline or self._channel.closed.wait(_POLL):
                    raise UnreachableError(f"weights: {policy}: another process is still fetching")
            yield
        finally:
            os.close(handle)


def _weights(policy: str, stored: Stored) -> Weights:
    key, manifest = stored.key, stored.manifest
    return Weights(policy, key.version, stored.tensors(), bfloat16_of(manifest), key.attempt)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(manifest: Manifest, frames: Iterator[bytes]) -> Iterator[bytes]:
    yield framing.opening(manifest)
    yield from frames
