"""What a weight server does for each call, apart from listening."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from troupe.metrics import Metrics
from troupe.weights import framing
from troupe.weights.errors import (
    DamagedError,
    FencedError,
    InvalidError,
    MissingError,
    NotNewerError,
    WeightsError,
)
from troupe.weights.files import Shelf, Stored
from troupe.weights.manifest import CARRY, Key, check, check_policy, key_of
from troupe.weights.relay import Upstream
from troupe.wire.weights_pb2 import (
    FetchRequest,
    Manifest,
    Notice,
    Notices,
    PinReply,
    PinRequest,
    PublishReply,
    WatchRequest,
    Whole,
)

Q = TypeVar("Q")
R = TypeVar("R")
Context = grpc.aio.ServicerContext[bytes, bytes]

log = logging.getLogger(__name__)


def _answers(
    method: Callable[["Service", Q, Context], Awaitable[R]],
) -> Callable[["Service", Q, Context], Awaitable[R]]:
    """End a call with the status that its error stands for."""

    @functools.wraps(method)
    async def answer(service: "Service", request: Q, context: Context) -> R:
        try:
            return await method(service, request, context)
        except WeightsError as error:
            return await context.abort(error.status, str(error))

    return answer


@dataclass
class Service:
    """The versions a server holds and knows of, and the four calls."""

    shelf: Shelf
    pins: Shelf | None
    upstream: Upstream | None
    metrics: Metrics
    keep: int
    max_bytes: int
    newest: dict[str, Key] = field(default_factory=dict)
    """By policy: what watchers are told. A relay may know of a version before it holds it."""
    held: dict[str, dict[Key, Stored]] = field(default_factory=dict)
    watchers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced by a fresh one, whenever `newest` changes."""
    fetching: dict[str, asyncio.Lock] = field(default_factory=dict)

    def restore(self) -> None:
        """Take up the files of an earlier server; damaged ones are removed."""
        for policy in self.shelf.policies():
            self.shelf.sweep(policy)
            for key in self.shelf.keys(policy):
                try:
                    stored = self.shelf.open(policy, key)
                    stored.verify()
                except DamagedError as error:
                    log.warning("%s: removed", error)
                    self.shelf.path(policy, key).unlink()
                else:
                    self._place(stored)

    @_answers
    async def publish(self, requests: AsyncIterator[bytes], context: Context) -> PublishReply:
        """Take a version in; see the contract for what is refused."""
        messages = aiter(requests)
        manifest = framing.read_opening(await anext(messages, b""))
        if not self._wanted(manifest, self.max_bytes):
            return PublishReply(already=True)
        with self.shelf.incoming(manifest) as incoming:
            async for message in messages:
                incoming.write(framing.unframe(message))
            # Somebody else may have published while this was arriving.
            if self._has(manifest):
                return PublishReply(already=True)
            self._check_order(manifest)
            self._place(incoming.commit())
        return PublishReply()

    @_answers
    async def put(self, request: Whole, context: Context) -> PublishReply:
        """Take a small version in, as `publish` does."""
        if not self._wanted(request.manifest, min(CARRY, self.max_bytes)):
            return PublishReply(already=True)
        with self.shelf.incoming(request.manifest) as incoming:
            incoming.write(framing.Chunk(0, memoryview(request.payload)))
            self._place(incoming.commit())
        return PublishReply()

    @_answers
    async def fetch(self, request: FetchRequest, context: Context) -> None:
        """Send a version; it stays readable to the end even if it is replaced meanwhile."""
        version = request.version if request.HasField("version") else None
        stored = await self._find(request.policy, version)
        await context.write(framing.opening(stored.manifest))
        for message in framing.frames([stored.payload]):
            await context.write(message)
            self.metrics.add("bytes_sent", len(message))

    @_answers
    async def watch(self, request: WatchRequest, context: Context) -> None:
        """Tell of what is newest, now and whenever it changes, until the caller leaves."""
        wanted = frozenset(request.policies)
        told: dict[str, Key] = {}
        opening = True
        self._count_watchers(1)
        try:
            while True:
                changed = self.changed
                news = {p: k for p, k in self.newest.items() if told.get(p) != k}
                told |= news
                notices = Notices(
                    newest=[
                        self._notice(policy, key, request.carry)
                        for policy, key in news.items()
                        if not wanted or policy in wanted
                    ]
                )
                if opening or notices.newest:
                    await context.write(notices.SerializeToString())
                opening = False
                await changed.wait()
        finally:
            self._count_watchers(-1)

    @_answers
    async def pin(self, request: PinRequest, context: Context) -> PinReply:
        """Keep a version for good."""
        if self.pins is None:
            raise InvalidError("weights: this server has no folder for pinned versions")
        stored = await self._find(request.policy, request.version)
        await asyncio.to_thread(self.pins.take, stored)
        return PinReply(attempt=stored.key.attempt)

    def hear(self, notices: Notices) -> None:
        """Learn from the upstream what is newest; small versions come with it."""
        for notice in notices.newest:
            try:
                self._take_carried(notice)
            except WeightsError as error:
                log.warning("%s: left to be fetched", error)
            self.newest[notice.policy] = Key(notice.attempt, notice.version)
        self._announce()

    def _take_carried(self, notice: Notice) -> None:
        """Hold a version that came with its notice, so that it goes on with ours."""
        whole = notice.whole
        if not notice.HasField("whole") or self._has(whole.manifest):
            return
        check(whole.manifest, min(CARRY, self.max_bytes))
        with self.shelf.incoming(whole.manifest) as incoming:
            incoming.write(framing.Chunk(0, memoryview(whole.payload)))
            self._place(incoming.commit())
        self.metrics.add("carried")

    def _wanted(self, manifest: Manifest, max_bytes: int) -> bool:
        """Whether a version is still to be taken in; raises where it must not be."""
        if self.upstream is not None:
            raise InvalidError("weights: this server is a relay; publish at its upstream")
        check(manifest, max_bytes)
        if self._has(manifest):
            return False
        self._check_order(manifest)
        return True

    def _has(self, manifest: Manifest) -> bool:
        stored = self.held.get(manifest.policy, {}).get(key_of(manifest))
        return stored is not None and stored.manifest == manifest

    def _check_order(self, manifest: Manifest) -> None:
        policy, key = manifest.policy, key_of(manifest)
        attempt = max((known.attempt for known in self.newest.values()), default=0)
        if key.attempt < attempt:
            raise FencedError(
                f"weights: {key} of {policy} is refused: attempt {attempt} of the run has begun"
            )
        known = self.newest.get(policy)
        if known is not None and key <= known:
            raise NotNewerError(f"weights: {key} of {policy} is not newer than {known}")

    def _place(self, stored: Stored) -> None:
        """Hold a complete version, and let go of those that are too old."""
        policy = stored.manifest.policy
        held = self.held.setdefault(policy, {})
        held[stored.key] = stored
        for key in sorted(held)[: -self.keep]:
            if key != stored.key:
                del held[key]
        self.shelf.keep(policy, self.keep, besides=stored.key)
        self.newest[policy] = max(stored.key, self.newest.get(policy, stored.key))
        self._announce()

    def _announce(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def _notice(self, policy: str, key: Key, carry: int) -> Notice:
        """The news of a version, with the version itself if it has at most `carry` bytes."""
        notice = Notice(policy=policy, attempt=key.attempt, version=key.version)
        stored = self.held.get(policy, {}).get(key)
        if stored is not None and stored.manifest.size <= min(carry, CARRY):
            notice.whole.manifest.CopyFrom(stored.manifest)
            notice.whole.payload = bytes(stored.payload)
        return notice

    def _count_watchers(self, change: int) -> None:
        self.watchers += change
        self.metrics.set("watchers", self.watchers)

    async def _find(self, policy: str, version: int | None) -> Stored:
        check_policy(policy)
        found = self._look(policy, version) or await asyncio.to_thread(
            self._pinned, policy, version
        )
        if found is None and self.upstream is not None:
            async with self.fetching.setdefault(policy, asyncio.Lock()):
                found = self._look(policy, version)
                if found is None:
                    found = await self.upstream.fetch(policy, version, self.shelf, self.max_bytes)
                    self._place(found)
                    self.metrics.add("fetches")
        if found is None:
            asked = "weights" if version is None else f"version {version}"
            raise MissingError(f"weights: no {asked} of {policy} here")
        return found

    def _look(self, policy: str, version: int | None) -> Stored | None:
        """A version that is held; where attempts share its number, the newest attempt's."""
        held, newest = self.held.get(policy, {}), self.newest.get(policy)
        if newest is not None and version in (None, newest.version):
            return held.get(newest)
        keys = [key for key in held if key.version == version]
        return held[max(keys)] if keys else None

    def _pinned(self, policy: str, version: int | None) -> Stored | None:
        if self.pins is None or version is None:
            return None
        keys = [key for key in self.pins.keys(policy) if key.version == version]
        if not keys:
            return None
        stored = self.pins.open(policy, max(keys))
        stored.verify()
        return stored
