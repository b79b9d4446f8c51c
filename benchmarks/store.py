"""How fast blocks of 64 KB go through the store: pushed and taken from Python, over loopback.

One process pushes and one takes, through the log, the codec and a server started for this; first
one after the other, then both at once. As in a run that has been going for a while, the server
already has the memory it needs. Raw loopback is the same bytes through a plain socket between two
processes, measured in turn with the rest; the line is 0.8 GB/s or 20 % of it.
"""

import multiprocessing
import os
import secrets
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from report import Report

from troupe.codec import encode
from troupe.episodes import Ending, Episodes
from troupe.store import server
from troupe.store.connection import Store
from troupe.store.replay import START, Limits, Outcome, ReplayLog

BLOCK_BYTES = 65_472
"""A value of this size ends where the server's memory allocator has a size class."""
BATCH = 16
"""Blocks that are pushed or taken with one call."""
LINE_GB = 0.8
LINE_SHARE = 0.2


class Rate(NamedTuple):
    """What one side of a measurement took."""

    seconds: float
    cpu: float


def main() -> int:
    """Measure, and print the table."""
    report = Report("store", __doc__)
    report.parser.add_argument("--blocks", type=int, default=4096, help="blocks a measurement")
    report.parser.add_argument("--rounds", type=int, default=5, help="the medians are of so many")
    options = report.arguments()
    size = options.blocks * len(encode(block()))
    raw, pushes, takes, through, cpu = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), size) as (url, pid):
        in_turn(url, options.blocks)
        for _ in range(options.rounds):
            raw.append(loopback(size))
            push, take = in_turn(url, options.blocks)
            before = server_cpu(pid)
            both = at_once(url, options.blocks)
            served = server_cpu(pid) - before
            pushes.append(size / push.seconds / 1e9)
            takes.append(size / take.seconds / 1e9)
            through.append(size / max(side.seconds for side in both) / 1e9)
            cpu.append([side.cpu / size * 1e9 for side in both] + [served / size * 1e9])
    loop = statistics.median(raw)
    line = min(LINE_GB, LINE_SHARE * loop)
    report.row("raw loopback", loop, "GB/s")
    report.row("push alone", statistics.median(pushes), "GB/s", at_least=line)
    report.row("take alone", statistics.median(takes), "GB/s", at_least=line)
    report.row("push and take at once", statistics.median(through), "GB/s")
    for i, who in enumerate(("pushing", "taking", "server")):
        report.row(f"CPU, {who}", statistics.median(sides[i] for sides in cpu), "s/GB")
    return report.finish()


def server_cpu(pid: int) -> float:
    """CPU seconds the server has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def block() -> Episodes:
    """A block that is 64 KB of bytes: as many steps as fit."""
    steps, row = 100, 600
    made = _block(steps, row)
    return _block(steps, row + (BLOCK_BYTES - len(encode(made))) // steps)


def _block(steps: int, row: int) -> Episodes:
    random = np.random.default_rng(1)
    return Episodes(
        policy="policy",
        actor="actor-0",
        incarnation=0,
        attempt=0,
        observation={"state": random.integers(0, 256, (steps, row), np.uint8)},
        action={"action": random.integers(0, 256, (steps, 7), np.uint8)},
        reward=np.zeros(steps, np.float32),
        log_prob=np.zeros(steps, np.float32),
        version=np.zeros(steps, np.uint32),
        length=np.array([steps], np.int32),
        seat=np.zeros(1, np.uint8),
        group=np.zeros(1, np.int64),
        ending=np.array([Ending.TERMINATED], np.uint8),
    )


def in_turn(url: str, blocks: int) -> tuple[Rate, Rate]:
    """Push everything, then take everything."""
    return _run([(push, url, blocks)])[0], _run([(take, url, blocks)])[0]


def at_once(url: str, blocks: int) -> list[Rate]:
    """Push and take side by side."""
    return _run([(push, url, blocks), (take, url, blocks)])


def push(url: str, blocks: int) -> Rate:
    """Push blocks as an actor does, a few at a time."""
    log, stop, batch = (
        ReplayLog(Store.connect(url, "benchmark")),
        threading.Event(),
        [block()] * BATCH,
    )
    started, cpu = time.perf_counter(), time.process_time()
    for _ in range(blocks // BATCH):
        assert all(done.outcome is Outcome.PUSHED for done in log.push_many(batch, stop))
    return Rate(time.perf_counter() - started, time.process_time() - cpu)


def take(url: str, blocks: int) -> Rate:
    """Take blocks as a learner does, and acknowledge now and then."""
    log = ReplayLog(Store.connect(url, "benchmark"))
    steps, position, left, touched = block().steps, START, blocks, 0
    started, cpu = time.perf_counter(), time.process_time()
    while left:
        taken = log.take(position, count=BATCH, timeout=30.0)
        touched += sum(int(one.block.reward.size) for one in taken)
        position, left = taken[-1].id, left - len(taken)
        log.sampled(steps * len(taken))
        if left % 256 == 0:
            log.acknowledge(position)
    assert touched == steps * blocks
    return Rate(time.perf_counter() - started, time.process_time() - cpu)


@contextmanager
def running(folder: Path, size: int) -> Iterator[tuple[str, int]]:
    """A server whose log holds all that is pushed; its URL and process id."""
    made = server.start(folder, password=secrets.token_hex(16), memory_mb=512 + 2 * size // 2**20)
    try:
        log = ReplayLog(Store.connect(made.url, "benchmark"))
        log.configure(Limits(capacity_steps=10**9, max_staleness=0, retained_bytes=2 * size))
        yield made.url, made.pid
    finally:
        made.stop()


def loopback(size: int) -> float:
    """GB/s of a plain socket between two processes."""
    with socket.create_server((server.HOST, 0)) as listening:
        port = listening.getsockname()[1]
        sender = multiprocessing.get_context("fork").Process(target=_send, args=(port, size))
        sender.start()
        connection, _ = listening.accept()
        buffer, got = bytearray(BATCH * BLOCK_BYTES), 0
        with connection:
            started = time.perf_counter()
            while received := connection.recv_into(buffer):
                got += received
            seconds = time.perf_counter() - started
        sender.join()
    return got / seconds / 1e9


def _send(port: int, size: int) -> None:
    payload = os.urandom(BLOCK_BYTES)
    with socket.create_connection((server.HOST, port)) as connection:
        for _ in range(size // BLOCK_BYTES):
            connection.sendall(payload)


Job = tuple[Callable[[str, int], Rate], str, int]


def _run(jobs: list[Job]) -> list[Rate]:
    """Run each job in a process of its own, all at the same time."""
    context = multiprocessing.get_context("fork")
    results: Queue[tuple[int, Rate]] = context.Queue()
    ready = context.Barrier(len(jobs))

    def run(index: int, job: Job) -> None:
        ready.wait()
        results.put((index, job[0](*job[1:])))

    processes = [context.Process(target=run, args=numbered) for numbered in enumerate(jobs)]
    for process in processes:
        process.start()
    rates = dict(results.get(timeout=300) for _ in jobs)
    for process in processes:
        process.join()
    return [rates[i] for i in range(len(jobs))]


if __name__ == "__main__":
    sys.exit(main())
