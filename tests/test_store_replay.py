"""The log between actors and learners, on every server this machine has."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Queue

import numpy as np
import pytest

from troupe.codec import encode
from troupe.episodes import Ending, Episodes
from troupe.errors import UserError
from troupe.store import StoreEmptiedError, StoreError, server
from troupe.store.board import Board
from troupe.store.connection import Store
from troupe.store.replay import START, Limits, Outcome, Push, ReplayLog

LIMITS = Limits(capacity_steps=1000, max_staleness=2)
NEVER = threading.Event()


def binaries() -> list[Path]:
    found = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    return [*(Path(path) for path in found if path), *filter(None, [server.embedded_binary()])]


@pytest.fixture(scope="module", params=binaries(), ids=lambda path: path.name)
def store_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("store")
    running = server.start(folder, password="p", memory_mb=64, binary=request.param)
    yield running.url
    running.stop()


@pytest.fixture
def log(store_url: str, request: pytest.FixtureRequest) -> Iterator[ReplayLog]:
    store = Store.connect(store_url, request.node.name)
    log = ReplayLog(store)
    log.restore(samples=0, versions={"p": 5}, attempt=0)
    log.configure(LIMITS)
    yield log
    store.redis.flushdb()
    store.close()


def block(steps: int = 100, *, version: int = 5, attempt: int = 0, policy: str = "p") -> Episodes:
    return Episodes(
        policy=policy,
        actor="actor-0",
        incarnation=0,
        attempt=attempt,
        observation={"state": np.zeros((steps, 8), np.uint8)},
        action={"card": np.zeros((steps, 1), np.uint8)},
        reward=np.arange(steps, dtype=np.float32),
        log_prob=np.zeros(steps, np.float32),
        version=np.full(steps, version, np.uint32),
        length=np.array([steps], np.int32),
        seat=np.zeros(1, np.uint8),
        group=np.zeros(1, np.int64),
        ending=np.array([Ending.TERMINATED], np.uint8),
    )


def push(log: ReplayLog, *blocks: Episodes) -> list[Outcome]:
    return [done.outcome for done in log.push_many(blocks, NEVER)]


def reserve(log: ReplayLog, token: str, steps: int, lease_ms: int = 1000) -> str:
    """The first half of a push, as an actor does it that dies in between."""
    names = ("state", "versions", "reservations", "actors-wait")
    keys = [log.store.key("replay", 0, name) for name in names]
    arguments = [token, 0, lease_ms, steps, 9, "p", 5]
    return str(log.store.call("reserve", keys, arguments)[0], "ascii")


def commit(log: ReplayLog, token: str, payload: bytes, steps: int) -> int:
    """The second half of a push, with any bytes; how many entries it adds."""
    names = ("state", "reservations", "sizes", "log")
    keys = [log.store.key("replay", 0, name) for name in names]
    pipe = log.store.redis.pipeline()
    pipe.xadd(keys[3], {"block": payload, "steps": steps})
    pipe.fcall("troupe_1_commit", len(keys), *keys, token, f"{steps} {len(payload)}")
    return int(pipe.execute()[-1])


def in_thread(call: Callable[[], Push]) -> "Queue[Push]":
    done: Queue[Push] = Queue()
    threading.Thread(target=lambda: done.put(call()), daemon=True).start()
    return done


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    for _ in range(1000):
        if condition():
            return
        NEVER.wait(0.01)
    raise AssertionError("it did not happen within 10 s")


def test_blocks_come_out_in_order_and_stay_until_they_are_acknowledged(log: ReplayLog) -> None:
    assert push(log, block(10), block(20), block(30)) == [Outcome.PUSHED] * 3
    first = log.take(START, count=2, timeout=1)
    assert [taken.block.steps for taken in first] == [10, 20]
    assert first[0].block.reward.tolist() == list(range(10))
    second = log.take(first[-1].id, count=2, timeout=1)
    assert [taken.block.steps for taken in second] == [30]
    assert log.take(second[-1].id, count=2, timeout=0) == []
    state = log.state()
    assert (state.inserts, state.samples, state.retained_blocks) == (60, 0, 3)
    assert state.retained_bytes == sum(taken.bytes for taken in first + second)
    log.sampled(60)
    assert log.acknowledge(first[-1].id) == 2
    assert log.acknowledge(first[-1].id) == 0
    state = log.state()
    assert (state.backlog, state.retained_blocks, state.retained_bytes) == (0, 1, second[0].bytes)
    assert log.take(START, count=9, timeout=0)[0].id == second[0].id


def test_promises_add_up_whatever_becomes_of_them(log: ReplayLog) -> None:
    key = log.store.key("replay", 0, "reservations")

    def promised() -> list[int]:
        held = {name: promise.split() for name, promise in log.store.redis.hgetall(key).items()}
        added, size, _ = held.pop(b"total")
        assert int(added) == sum(int(steps) for steps, _, _ in held.values())
        assert int(size) == sum(int(size) for _, size, _ in held.values())
        return sorted(int(steps) for steps, _, _ in held.values())

    for token, steps in {"used": 10, "withdrawn": 20, "kept": 40}.items():
        assert reserve(log, token, steps, lease_ms=60_000) == "ok"
    assert (
        reserve(log, "kept", 40, lease_ms=60_000) == "ok"
    )  # as a client that heard no answer does
    assert promised() == [10, 20, 40]
    assert commit(log, "used", b"x", 10) == 1
    assert [log._withdraw(token) for token in ("withdrawn", "withdrawn", "used")] == [
        True,
        False,
        False,
    ]
    assert promised() == [40]
    assert reserve(log, "lost", 30, lease_ms=1) == "ok"
    NEVER.wait(0.05)
    assert reserve(log, "after", 5, lease_ms=60_000) == "ok"
    assert promised() == [5, 40]


def test_a_take_waits_for_the_first_block(log: ReplayLog) -> None:
    taken: Queue[int] = Queue()
    reader = threading.Thread(
        target=lambda: taken.put(len(log.take(START, count=8, timeout=10))), daemon=True
    )
    reader.start()
    until(lambda: log.state().waiting == "learner waits for actors: queue empty")
    push(log, block())
    assert taken.get(timeout=10) == 1


def test_nothing_is_pushed_before_the_learner_has_set_limits(store_url: str) -> None:
    log = ReplayLog(Store.connect(store_url, "early"))
    done = in_thread(lambda: log.push(block(), NEVER))
    until(lambda: log.waiting_for == "actors wait for the learner: it has not started")
    assert log.state().waiting == log.waiting_for
    log.configure(LIMITS)
    assert done.get(timeout=10).outcome is Outcome.PUSHED


def test_a_full_queue_makes_actors_wait_and_says_for_whom(log: ReplayLog) -> None:
    push(log, *[block()] * 10)
    done = in_thread(lambda: log.push(block(), NEVER))
    words = "actors wait for the learner: 1,000 of 1,000 steps queued"
    until(lambda: log.state().waiting == words)
    assert log.waiting_for == words
    log.sampled(99)
    until(lambda: "901 of 1,000" in log.state().waiting)
    log.sampled(1)
    pushed = done.get(timeout=10)
    assert pushed.outcome is Outcome.PUSHED
    assert pushed.waited > 0
    assert log.waiting_for == ""


def test_limits_change_while_actors_wait(log: ReplayLog) -> None:
    push(log, *[block()] * 10)
    done = in_thread(lambda: log.push(block(), NEVER))
    until(lambda: log.waiting_for != "")
    log.configure(Limits(capacity_steps=1100, max_staleness=2))
    assert done.get(timeout=10).outcome is Outcome.PUSHED


def test_a_waiting_actor_stops_when_told(log: ReplayLog) -> None:
    push(log, *[block()] * 9)
    stop = threading.Event()
    threading.Thread(target=lambda: (until(lambda: log.waiting_for != ""), stop.set())).start()
    results = log.push_many([block()] * 3, stop)
    assert [done.outcome for done in results] == [Outcome.PUSHED, Outcome.STOPPED, Outcome.STOPPED]
    assert log.push(block(), stop).outcome is Outcome.STOPPED


def test_stale_blocks_are_refused_even_while_they_wait(log: ReplayLog) -> None:
    old, new = block(version=2), block(version=3)
    assert push(log, old, new, old) == [Outcome.STALE, Outcome.PUSHED, Outcome.STALE]
    assert push(log, block(version=0, policy="unknown")) == [Outcome.PUSHED]
    push(log, *[block()] * 8)
    done = in_thread(lambda: log.push(block(version=5), NEVER))
    until(lambda: log.waiting_for != "")
    log.published("p", 8)
    assert done.get(timeout=10).outcome is Outcome.STALE


def test_an_earlier_attempt_is_shut_out(log: ReplayLog) -> None:
    zombie = ReplayLog(log.store)
    zombie.restore(samples=0, versions={}, attempt=0)
    log.restore(samples=0, versions={"p": 5}, attempt=1)
    assert push(log, block(attempt=0)) == [Outcome.FENCED]
    assert push(log, block(attempt=1)) == [Outcome.PUSHED]
    for call in (
        lambda: zombie.sampled(1),
        lambda: zombie.published("p", 9),
        lambda: zombie.acknowledge("9-9"),
        lambda: zombie.restore(samples=0, versions={}, attempt=0),
    ):
        with pytest.raises(StoreError, match="attempt 0 is over"):
            call()
    assert log.state().retained_blocks == 1


def test_blocks_that_can_never_fit_are_refused_at_once(log: ReplayLog) -> None:
    with pytest.raises(UserError, match=r"1,001 steps does not fit in 1,000.*block_steps"):
        log.push(block(1001), NEVER)
    log.configure(Limits(capacity_steps=1000, max_staleness=2, retained_bytes=5000))
    with pytest.raises(UserError, match=r"bytes does not fit in the 5,000"):
        log.push(block(1000), NEVER)


def test_memory_runs_short_until_the_learner_saves(log: ReplayLog) -> None:
    size = len(encode(block()))
    log.configure(Limits(capacity_steps=10**6, max_staleness=2, retained_bytes=5 * size))
    push(log, *[block()] * 3)
    assert not log.state().checkpoint_wanted
    done = in_thread(lambda: log.push_many([block()] * 3, NEVER)[-1])
    until(lambda: log.waiting_for.startswith("actors wait, learner must checkpoint"))
    state = log.state()
    assert state.checkpoint_wanted
    assert "learner must checkpoint" in state.waiting
    taken = log.take(START, count=99, timeout=1)
    log.sampled(sum(one.block.steps for one in taken))
    assert done.empty()
    log.acknowledge(taken[-1].id)
    assert done.get(timeout=10).outcome is Outcome.PUSHED


def test_a_reservation_of_the_dead_is_given_back(log: ReplayLog) -> None:
    assert reserve(log, "dead", 950, lease_ms=150) == "ok"
    assert reserve(log, "next", 100) == "capacity"
    assert log.state().inserts == 0
    pushed = log.push(block(), NEVER)
    assert pushed.outcome is Outcome.PUSHED
    assert pushed.waited > 0
    assert commit(log, "dead", b"too late", 950) == 0
    assert len(log.take(START, count=9, timeout=1)) == 1
    assert (log.damaged, log.state().inserts, log.state().retained_blocks) == (0, 100, 1)


def test_many_actors_at_once_never_pass_the_limit(log: ReplayLog) -> None:
    stop, highest = threading.Event(), 0
    logs = [ReplayLog(log.store) for _ in range(4)]

    def act(mine: ReplayLog) -> None:
        while not stop.is_set():
            mine.push_many([block(90), block(60)], stop)

    actors = [threading.Thread(target=act, args=(mine,)) for mine in logs]
    for actor in actors:
        actor.start()
    until(lambda: log.state().backlog > 850)
    after, seen = START, 0
    while seen < 6000:
        highest = max(highest, log.state().backlog)
        for taken in log.take(after, count=3, timeout=1):
            after, seen = taken.id, seen + taken.block.steps
            log.sampled(taken.block.steps)
        log.acknowledge(after)
    stop.set()
    for actor in actors:
        actor.join()
    assert highest <= 1000
    state = log.state()
    assert state.backlog == sum(one.block.steps for one in log.take(after, count=99, timeout=0))


def test_a_damaged_block_is_skipped_and_counted_once(log: ReplayLog) -> None:
    push(log, block(10))
    assert reserve(log, "token", 7) == "ok"
    assert commit(log, "token", b"TRPE nonsense", 7) == 1
    first = log.take(START, count=1, timeout=1)
    assert log.take(first[0].id, count=9, timeout=0) == []
    push(log, block(20))
    for _ in range(2):
        rest = log.take(first[0].id, count=1, timeout=1)
        assert [taken.block.steps for taken in rest] == [20]
    assert log.damaged == 1
    assert log.state().backlog == 30
    assert log.acknowledge(rest[-1].id) == 3
    assert log.state().retained_bytes == 0


def test_a_restarted_learner_goes_on_from_its_checkpoint(log: ReplayLog) -> None:
    push(log, *[block()] * 6)
    taken = log.take(START, count=6, timeout=1)
    log.sampled(500)
    learner = ReplayLog(log.store)
    learner.restore(samples=200, versions={"p": 2}, attempt=0, position=taken[1].id)
    state = learner.state()
    assert (state.samples, state.backlog, state.retained_blocks) == (200, 400, 4)
    again = learner.take(taken[1].id, count=9, timeout=1)
    assert [one.id for one in again] == [one.id for one in taken[2:]]
    assert push(log, block(version=0)) == [Outcome.PUSHED]


def test_over_the_memory_limit_everything_but_blocks_goes_on(
    store_url: str, tmp_path: Path, log: ReplayLog
) -> None:
    used = int(log.store.redis.info("memory")["used_memory"])
    try:
        log.store.redis.config_set("maxmemory", used - 1000)
        done = in_thread(lambda: log.push(block(), NEVER))
        until(lambda: log.waiting_for == "actors wait for the store: its memory is full")
        board = Board(log.store)
        board.put("job", {"a": 1})
        board.request_stop("memory")
        board.snapshot("actor-0", {"steps": 1.0})
        log.published("p", 5)
        log.sampled(0)
        log.configure(LIMITS)
        log.acknowledge(START)
        assert log.take(START, count=1, timeout=0.01) == []
        log.store.redis.config_set("maxmemory", 64 * 2**20)
        assert done.get(timeout=10).outcome is Outcome.PUSHED
        assert log.state().inserts == 100
    finally:
        log.store.redis.config_set("maxmemory", 64 * 2**20)


@pytest.mark.parametrize("binary", binaries(), ids=lambda path: path.name)
def test_a_store_that_comes_back_empty_is_filled_anew(tmp_path: Path, binary: Path) -> None:
    port = server._free_port(server.HOST)
    first = server.start(tmp_path, password="p", memory_mb=16, port=port, binary=binary)
    learner, actor = (ReplayLog(Store.connect(first.url, "run")) for _ in range(2))
    learner.restore(samples=700, versions={"p": 5}, attempt=0)
    learner.configure(LIMITS)
    push(actor, block())
    first.stop()
    done = in_thread(lambda: actor.push(block(version=7), NEVER))
    until(lambda: actor.store.retries > 0)
    second = server.start(tmp_path, password="p", memory_mb=16, port=port, binary=binary)
    with pytest.raises(StoreEmptiedError):
        learner.take(START, count=1, timeout=0.1)
    assert done.empty()
    learner.restore(samples=700, versions={"p": 7}, attempt=0)
    assert done.get(timeout=10).outcome is Outcome.PUSHED
    state = learner.state()
    assert (state.samples, state.backlog) == (700, 100)
    assert len(learner.take(START, count=9, timeout=1)) == 1
    second.stop()


class Cutting(threading.Thread):
    """A way to the store that breaks once, right before or right after a transaction is done."""

    def __init__(self, url: str, *, after: bool) -> None:
        super().__init__(daemon=True)
        self._target = ("127.0.0.1", int(url.rsplit(":", 1)[1].split("/")[0]))
        self._after = after
        self.cuts = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(str(self._target[1]), str(self._listening.getsockname()[1]))

    def run(self) -> None:
        while True:
            client, _ = self._listening.accept()
            upstream = socket.create_connection(self._target)
            threading.Thread(target=self._up, args=(client, upstream), daemon=True).start()
            threading.Thread(target=self._down, args=(client, upstream), daemon=True).start()

    def _up(self, client: socket.socket, upstream: socket.socket) -> None:
        while data := client.recv(65536):
            if b"EXEC" in data and not self.cuts:
                self.cuts += 1
                client.shutdown(socket.SHUT_WR)
                if not self._after:
                    break
            upstream.sendall(data)
        upstream.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := upstream.recv(65536):
                client.sendall(data)


@pytest.mark.parametrize("after", [False, True])
def test_a_connection_that_breaks_in_a_push_neither_loses_nor_doubles_the_block(
    log: ReplayLog, after: bool, store_url: str
) -> None:
    way = Cutting(store_url, after=after)
    way.start()
    actor = ReplayLog(Store.connect(way.url, log.store.run))
    assert push(actor, block(), block()) == [Outcome.PUSHED] * 2
    assert way.cuts == 1
    assert len(log.take(START, count=9, timeout=1)) == 2
    assert log.state().inserts == 200


def test_a_block_without_steps_travels(log: ReplayLog) -> None:
    empty = block(0)
    none = {name: getattr(empty, name)[:0] for name in ("length", "seat", "group", "ending")}
    empty = replace(empty, turn=3, resume=b"on", **none)
    assert push(log, empty, block(10), empty) == [Outcome.PUSHED] * 3
    assert push(log, empty) == [Outcome.PUSHED]
    taken = log.take(START, count=9, timeout=0)
    assert [(one.block.steps, one.block.turn, one.block.resume) for one in taken] == [
        (0, 3, b"on"), (10, 0, b""), (0, 3, b"on"), (0, 3, b"on"),
    ]  # fmt: skip
    assert log.state().inserts == 10
