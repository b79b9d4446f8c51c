"""Simulated actors: all that a real one asks of store and weight server, without the playing.

Each has the connections of a real one: to the store one for its reporter, one for its calls and one
for its transactions; to the weight server one, on which it watches. Once a second it reports its
metrics and looks whether to stop, and as often, unless told otherwise, it reserves room for a block
and appends it. They share two processes, one that talks to the store and one that watches, so that
neither waits for the other, and the store's protocol is spoken as cheaply as Python can: what is
measured is the other side.
"""

import asyncio
import json
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Protocol
from urllib.parse import unquote, urlsplit

import grpc
import hiredis
import numpy as np

from troupe.codec import encode
from troupe.episodes import Ending, Episodes
from troupe.metrics import Metrics, Reporter
from troupe.store.connection import Store, function
from troupe.weights.channel import OPTIONS, backoff
from troupe.weights.credentials import metadata
from troupe.weights.manifest import CARRY
from troupe.weights.server import open_many_files
from troupe.wire.weights_pb2 import WatchRequest
from troupe.wire.weights_pb2_grpc import WeightsStub

REPORT_SECONDS = 1.0
"""Between two reports of an actor."""
STEPS = 100
LEASE_MS = 60_000
CONNECTING = 64
"""Actors that connect at once."""
LATE = 3.0
"""Seconds that are waited for notices of versions published last."""
ALONE = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
"""A connection for each channel: gRPC would let those of one process share one."""


@dataclass(frozen=True)
class Place:
    """Where a run's control plane is."""

    run: str
    store: str
    weights: str
    token: str
    block_seconds: float
    """Between two blocks of an actor."""


@dataclass
class Seen:
    """What the actors of one process saw. Times are of the machine's monotonic clock."""

    reserves: list[tuple[float, float]] = field(default_factory=list)
    """When each was asked for, and the seconds that it took."""
    notices: list[list[tuple[int, float]]] = field(default_factory=list)
    """Of each actor, every version that it heard of, and when."""
    broken: int = 0
    """Streams of notices that broke off, and were opened again."""
    lags: list[float] = field(default_factory=list)
    """Seconds by which the process itself was late, looked at a hundred times a second."""


class Actor(Protocol):
    """One side of an actor."""

    async def connect(self) -> None:
        """Make its connections."""
        ...

    def work(self) -> Sequence[Coroutine[None, None, None]]:
        """What it does side by side, for ever."""
        ...

    async def close(self) -> None:
        """Leave."""
        ...


def play(place: Place, count: int, pipe: Connection) -> None:
    """A process of `count` actors as the store sees them."""
    seen, speech = Seen(), Speech(place.run)
    players = [Player(place, f"actor-{i}", speech, seen) for i in range(count)]
    asyncio.run(_live(players, seen, pipe))


def watch(place: Place, count: int, pipe: Connection) -> None:
    """A process of `count` actors as the weight server sees them."""

    async def live() -> None:  # a channel belongs to the loop in which it is made
        seen = Seen()
        await _live([Watcher(place, seen) for _ in range(count)], seen, pipe)

    asyncio.run(live())


async def _live(actors: Sequence[Actor], seen: Seen, pipe: Connection) -> None:
    """Say that all are connected, be told when to measure, tell what was seen."""
    open_many_files()
    connecting = asyncio.Semaphore(CONNECTING)
    await asyncio.gather(*(_connect(actor, connecting) for actor in actors))
    going = [asyncio.create_task(work) for actor in actors for work in actor.work()]
    while not all(seen.notices) and not _failure(going):
        await asyncio.sleep(0.05)
    pipe.send(_failure(going) or "ready")
    begin, end = await asyncio.to_thread(pipe.recv)
    await _until(begin)
    seen.lags = await _lags(end)
    await _until(end + LATE)
    pipe.send(_failure(going) or seen)
    for task in going:
        task.cancel()
    for actor in actors:
        await actor.close()


def _failure(going: Sequence[asyncio.Task[None]]) -> RuntimeError | None:
    """What ended, of all that should go on."""
    ended = next((task for task in going if task.done()), None)
    return ended and RuntimeError(f"an actor ended: {ended.exception()!r}")


async def _connect(actor: Actor, connecting: asyncio.Semaphore) -> None:
    async with connecting:
        await actor.connect()


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def _lags(end: float) -> list[float]:
    """How late this process wakes up, until `end`."""
    lags = []
    while (asked := time.monotonic()) < end:
        await asyncio.sleep(0.01)
        lags.append(time.monotonic() - asked - 0.01)
    return lags


class Speech:
    """The commands of an actor, byte for byte those of `Board`, `Reporter` and `ReplayLog`."""

    def __init__(self, run: str) -> None:
        key = _keys(run)
        log = [key("replay", 0, name) for name in ("log", "sizes", "state", "reservations")]
        self._snapshots = key("snapshots")
        self._look = pack("HGET", key("control"), "stop")
        self._reserving = [key("replay", 0, n) for n in ("state", "versions", "reservations")]
        self._reserving.append(key("replay", 0, "actors-wait"))
        self._log, (sizes, state, reservations) = log[0], log[1:]
        self._committing = [state, reservations, sizes, self._log]
        made = block()
        self._bytes = made.nbytes
        self._append = pack("XADD", self._log, "*", "block", bytes(encode(made)), "steps", STEPS)

    def reports(self, process: str, values: dict[str, object]) -> tuple[bytes, bytes]:
        """Two commands: put up a snapshot, look whether to stop."""
        put = pack("FCALL", function("put"), 1, self._snapshots, process, json.dumps(values))
        return put, self._look

    def reserve(self, token: str) -> bytes:
        """Ask for room for one block."""
        return pack("FCALL", function("reserve"), len(self._reserving), *self._reserving,
                    token, 1, LEASE_MS, STEPS, self._bytes, "policy", 0)  # fmt: skip

    def append(self, token: str) -> bytes:
        """The transaction that puts it there."""
        commit = pack("FCALL", function("commit"), len(self._committing), *self._committing,
                      token, f"{STEPS} {self._bytes}")  # fmt: skip
        return pack("MULTI") + self._append + commit + pack("EXEC")


APPEND_REPLIES = 4


class Player:
    """An actor as the store sees it."""

    def __init__(self, place: Place, name: str, speech: Speech, seen: Seen) -> None:
        self._place, self._name, self._speech, self._seen = place, name, speech, seen
        self._reporting, self._calling, self._appending = Wire(), Wire(), Wire()

    async def connect(self) -> None:
        """Make its three connections."""
        for wire in (self._reporting, self._calling, self._appending):
            await wire.connect(self._place.store)

    def work(self) -> list[Coroutine[None, None, None]]:
        """What it does side by side, for ever."""
        return [self._report(), self._push()]

    async def close(self) -> None:
        """Leave."""
        for wire in (self._reporting, self._calling, self._appending):
            wire.close()

    async def _report(self) -> None:
        values = snapshot(self._name)
        async for moment in _beats(REPORT_SECONDS):
            values["uptime"] = moment
            for command in self._speech.reports(self._name, values):
                await self._reporting.ask(command)

    async def _push(self) -> None:
        async for _ in _beats(self._place.block_seconds):
            token, asked = uuid.uuid4().hex, time.monotonic()
            verdicts = await self._calling.ask(self._speech.reserve(token))
            self._seen.reserves.append((asked, time.monotonic() - asked))
            if verdicts != [b"ok"]:
                raise RuntimeError(f"{self._name}: a reserve was answered by {verdicts}")
            *_, done = await self._appending.ask(self._speech.append(token), APPEND_REPLIES)
            if done != 1:
                raise RuntimeError(f"{self._name}: a block was answered by {done}")


class Watcher:
    """An actor as the weight server sees it."""

    def __init__(self, place: Place, seen: Seen) -> None:
        self._token = place.token
        self._channel = grpc.aio.insecure_channel(place.weights, ALONE)
        self._seen = seen
        self._notices: list[tuple[int, float]] = []
        seen.notices.append(self._notices)

    async def connect(self) -> None:
        """Make its connection."""
        await asyncio.wait_for(self._channel.channel_ready(), 120)

    def work(self) -> list[Coroutine[None, None, None]]:
        """What it does, for ever."""
        return [self._watch()]

    async def close(self) -> None:
        """Leave."""
        await self._channel.close()

    async def _watch(self) -> None:
        for delay in backoff():  # as the real one does
            try:
                await self._listen()
            except grpc.aio.AioRpcError:
                self._seen.broken += 1
                await asyncio.sleep(delay)

    async def _listen(self) -> None:
        request = WatchRequest(carry=CARRY)
        call = WeightsStub(self._channel).Watch(request, metadata=metadata(self._token))
        async for notices in call:
            heard = time.monotonic()
            self._notices.extend((notice.version, heard) for notice in notices.newest)


async def _beats(period: float) -> AsyncIterator[float]:
    """Moments a period apart, each actor's in its own step; none is left out, late or not."""
    moment = time.monotonic() + random.uniform(0.0, period)
    while True:
        await _until(moment)
        yield moment
        moment += period


class Wire(asyncio.Protocol):
    """One connection to the store."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._asked: deque[tuple[asyncio.Future[object], int]] = deque()
        self._transport: asyncio.Transport

    async def connect(self, url: str) -> None:
        """Open it, and say the password."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, parts.hostname, parts.port)
        await self.ask(pack("AUTH", unquote(parts.password or "")))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, commands: bytes, replies: int = 1) -> asyncio.Future[object]:
        """Send commands; the last of so many replies."""
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._asked.append((answer, replies))
        self._transport.write(commands)
        return answer

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            answer, left = self._asked.popleft()
            if isinstance(reply, hiredis.HiredisError):
                answer.cancelled() or answer.set_exception(reply)
            elif left > 1:
                self._asked.appendleft((answer, left - 1))
            elif not answer.cancelled():
                answer.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        for answer, _ in self._asked:
            answer.cancel()

    def close(self) -> None:
        """Close it."""
        self._transport.close()


def pack(*parts: str | int | bytes) -> bytes:
    """A command in the Redis serialization protocol."""
    return hiredis.pack_command(parts)


def _keys(run: str) -> Callable[..., str]:
    """The names of a run's keys, as `Store.key` makes them; nothing is connected."""
    return Store("redis://127.0.0.1", run).key


class _Nowhere:
    """A board that keeps nothing."""

    def snapshot(self, process: str, values: object, /) -> None: ...

    def stop_requested(self) -> None: ...


def snapshot(process: str) -> dict[str, object]:
    """A snapshot as a player of Dou Dizhu puts it up."""
    metrics = Metrics()
    for name in ("decisions", "forced", "episodes", "env_restarts", "steps", "blocks",
                 "stale_blocks", "blocked_seconds", "weight_updates", "weight_misses"):  # fmt: skip
        metrics.add(name, random.uniform(1e5, 1e6))
    for seat in ("landlord", "peasant_up", "peasant_down"):
        metrics.set(f"version/{seat}", random.randrange(10_000))
    metrics.set("waiting_for", "actors wait for the learner: 16,000 of 16,000 steps queued")
    return dict(Reporter(metrics, _Nowhere(), process).values())


def block() -> Episodes:
    """A block of a few hundred bytes: what is measured is not how fast bytes move."""
    return Episodes(
        policy="policy",
        actor="actor-0",
        incarnation=0,
        attempt=1,
        observation={"state": np.zeros((STEPS, 1), np.uint8)},
        action={"action": np.zeros((STEPS, 1), np.uint8)},
        reward=np.zeros(STEPS, np.float32),
        log_prob=np.zeros(STEPS, np.float32),
        version=np.zeros(STEPS, np.uint32),
        length=np.array([STEPS], np.int32),
        seat=np.zeros(1, np.uint8),
        group=np.zeros(1, np.int64),
        ending=np.array([Ending.TERMINATED], np.uint8),
    )
