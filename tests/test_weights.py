"""Weights on the real server: what is published is what is fetched, and nothing else ever is."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from troupe.errors import TroupeError
from troupe.metrics import Metrics
from troupe.weights.client import WeightsClient
from troupe.weights.credentials import Tls
from troupe.weights.relay import Upstream
from troupe.weights.server import MAX_BYTES, serve

TOKEN = "a token for tests"


class Running:
    """A weight server on a thread of this process."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        tls: Tls | None = None,
        upstream: Upstream | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.metrics = Metrics()
        self.address = ""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        serving = serve(
            folder / "newest",
            token=TOKEN,
            on_ready=self._on_ready,
            stop=self._stop,
            port=port,
            tls=tls,
            pins=folder / "pinned",
            upstream=upstream,
            max_bytes=max_bytes,
            metrics=self.metrics,
        )
        self._thread = threading.Thread(target=self._run, args=(serving,))
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _on_ready(self, address: str) -> None:
        self.address = address
        self._ready.set()

    def _run(self, serving) -> None:
        try:
            self._loop.run_until_complete(serving)
        except TroupeError as error:
            self._failure = error
        self._ready.set()
        self._loop.close()


@contextmanager
def running(folder: Path, **options) -> Iterator[Running]:
    server = Running(folder, **options)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "server") as made:
        yield made


@contextmanager
def connected(server: Running, folder: Path, **options) -> Iterator[WeightsClient]:
    options = {"token": TOKEN, "patience": 10.0, **options}
    client = WeightsClient(lambda: server.address, folder=folder, **options)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def client(server: Running, tmp_path: Path) -> Iterator[WeightsClient]:
    with connected(server, tmp_path / "node") as made:
        yield made


def filled(value: float, size: int = 1000) -> dict[str, np.ndarray]:
    return {"a": np.full(size, value, np.float32), "b": np.full((3, size), value, np.float64)}


def test_what_was_published_is_fetched(client: WeightsClient) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "float32": rng.normal(size=(300, 1001)).astype(np.float32),
        "float16": rng.normal(size=7).astype(np.float16),
        "transposed": rng.normal(size=(5, 9)).T,
        "bfloat16": rng.integers(0, 2**16, (4, 4), np.uint16),
        "uint16": rng.integers(0, 2**16, 3, np.uint16),
        "bool": rng.integers(0, 2, 11).astype(bool),
        "big-endian": np.arange(5, dtype=">i4"),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(3.5),
    }
    assert client.latest("landlord") is None
    client.publish("landlord", 1, tensors, bfloat16={"bfloat16"})
    assert client.wait("landlord", 0, timeout=10) == 1
    weights = client.fetch("landlord")
    assert (weights.policy, weights.version, weights.bfloat16) == ("landlord", 1, {"bfloat16"})
    assert list(weights.tensors) == list(tensors)
    for name, tensor in tensors.items():
        fetched = weights.tensors[name]
        assert fetched.shape == tensor.shape
        assert fetched.dtype == tensor.dtype.newbyteorder("<")
        assert not fetched.flags.writeable
        np.testing.assert_array_equal(fetched, tensor)
