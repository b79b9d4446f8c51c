"""How fast a client gets new weights from the server, over loopback, against a bare socket.

Server, socket and client are processes of their own. A fetch is timed from the request until the
tensors can be read: asked for, sent, verified, stored in the node's folder, mapped. Each figure is
the median of rounds that alternate with the socket's.
"""

import asyncio
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from report import Report

from troupe.weights.certificates import self_signed
from troupe.weights.client import WeightsClient
from troupe.weights.credentials import Tls
from troupe.weights.server import serve

TOKEN = "benchmark"
MB = 1_000_000
BLOCK = 1 << 20
SPAWN = multiprocessing.get_context("spawn")


def serve_weights(folder: Path, tls: Tls | None, pipe: Connection) -> None:
    """The server's process: tells its address, ends when its pipe is closed."""

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), stop.set)
        await serve(folder, token=TOKEN, on_ready=pipe.send, stop=stop, tls=tls)

    asyncio.run(run())


def serve_socket(size: int, pipe: Connection) -> None:
    """The bare socket's process: sends `size` bytes for each byte it is sent."""
    block = memoryview(bytes(BLOCK))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pipe.send(listening.getsockname())
        connection, _ = listening.accept()
        with connection:
            while connection.recv(1):
                for start in range(0, size, BLOCK):
                    connection.sendall(block[: size - start])


@contextmanager
def process(target, *arguments) -> Iterator[object]:
    """Run `target` in a process of its own; gives the first thing that it sends."""
    ours, theirs = SPAWN.Pipe()
    child = SPAWN.Process(target=target, args=(*arguments, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        child.join(5)
        child.terminate()


@contextmanager
def raw(size: int) -> Iterator[socket.socket]:
    """A connection to a bare socket that answers with `size` bytes."""
    with process(serve_socket, size) as address, socket.create_connection(address) as connection:
        yield connection


@contextmanager
def client(tls: Tls | None) -> Iterator[WeightsClient]:
    """A client of a fresh server, both with folders in memory."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name,
        process(serve_weights, Path(name, "served"), tls) as address,
    ):
        made = WeightsClient(
            lambda: address,
            token=TOKEN,
            folder=Path(name, "node"),
            tls=tls,
        )
        try:
            yield made
        finally:
            made.close()


def time_raw(connection: socket.socket, size: int, buffer: bytearray) -> float:
    """Seconds until `size` bytes have come through a bare socket."""
    start = time.perf_counter()
    connection.send(b"?")
    while size:
        size -= connection.recv_into(buffer)
    return time.perf_counter() - start


def time_fetch(weights: WeightsClient, version: int, tensors: dict[str, np.ndarray]) -> float:
    """Seconds to fetch a version that was just published."""
    weights.publish("policy", version, tensors)
    weights.wait("policy", version - 1, timeout=10)
    start = time.perf_counter()
    fetched = weights.fetch("policy", version)
    seconds = time.perf_counter() - start
    assert all(np.array_equal(tensors[name], fetched.tensors[name]) for name in tensors)
    return seconds


def measure(size: int, rounds: int, tls: Tls | None) -> tuple[float, float]:
    """Median seconds of a fetch and of a bare socket, for `size` bytes; two rounds are warm-up."""
    rng = np.random.default_rng(0)
    count = size // 20 // 4
    tensors = {f"layer{i}": rng.random(count, np.float32) for i in range(20)}
    buffer = bytearray(BLOCK)
    fetches, sockets = [], []
    with client(tls) as weights, raw(size) as connection:
        for version in range(1, rounds + 3):
            fetches.append(time_fetch(weights, version, tensors))
            sockets.append(time_raw(connection, size, buffer))
    return statistics.median(fetches[2:]), statistics.median(sockets[2:])


def main() -> int:
    """Measure and report."""
    report = Report("weights", __doc__)
    report.parser.add_argument("--rounds", type=int, default=15, help="fetches for each figure")
    rounds = report.arguments().rounds
    for name, tls, fastest, share in (
        ("plain", None, 1.0, 0.25),
        ("TLS", self_signed(), 0.7, 0.18),
    ):
        seconds, bare = measure(100 * MB, rounds, tls)
        speed, limit = 0.1 / seconds, 0.1 / bare
        report.row(f"100 MB, {name}", speed, "GB/s", at_least=min(fastest, share * limit))
        report.row(f"bare socket beside {name}", limit, "GB/s")
    seconds, _ = measure(18 * MB, 3 * rounds, None)
    report.row("18 MB, plain", 1e3 * seconds, "ms", at_most=40.0)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
