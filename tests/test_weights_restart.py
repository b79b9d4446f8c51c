"""Weights across the death of a server: what was complete stays, what was not never was."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from troupe.errors import TroupeError
from troupe.metrics import Metrics
from troupe.weights import framing, worker
from troupe.weights.channel import PUBLISH
from troupe.weights.client import Weights, WeightsClient
from troupe.weights.credentials import metadata
from troupe.weights.errors import DamagedError, MissingError, UnreachableError
from troupe.weights.manifest import Key, describe
from troupe.weights.worker import WeightServer

TOKEN = "a token for tests"


def filled(value: float) -> dict[str, np.ndarray]:
    return {"a": np.full(1000, value, np.float32), "b": np.full((3, 1000), value, np.float64)}


def is_filled(weights: Weights, value: float) -> bool:
    return all((tensor == value).all() for tensor in weights.tensors.values())


SERVE = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace
from troupe.weights.server import serve

folder, port, token = sys.argv[1:]
folder = Path(folder)
ready = lambda address: print(address, flush=True)
asyncio.run(
    serve(
        folder / "newest",
        pins=folder / "pinned",
        token=token,
        port=int(port),
        on_ready=ready,
        stop=asyncio.Event(),
    )
)
"""


@contextmanager
def process(folder: Path, port: int = 0) -> Iterator[str]:
    """A server in a process of its own, killed with -9 at the end; gives its address."""
    command = [sys.executable, "-c", SERVE, str(folder), str(port), TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child.stdout.readline().strip()
        finally:
            child.send_signal(signal.SIGKILL)


@contextmanager
def connected(address: Callable[[], str | None], folder: Path, patience: float = 20.0):
    client = WeightsClient(address, token=TOKEN, folder=folder, patience=patience)
    try:
        yield client
    finally:
        client.close()


def test_a_server_that_was_killed_goes_on_from_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "server" / "newest"
    half_sent = threading.Event()
    manifest, buffers = describe("landlord", Key(0, 4), filled(4), publisher="test")

    def half() -> Iterator[bytes]:
        yield framing.opening(manifest)
        yield framing.frame(0, [buffers[0], buffers[1][:100]])
        half_sent.wait()

    with process(folder.parent) as address, connected(lambda: address, tmp_path / "node") as client:
        for version in (1, 2, 3):
            client.publish("landlord", version, filled(version))
        with grpc.insecure_channel(address) as channel:
            publish = channel.stream_unary(PUBLISH, None, None)
            call = publish.future(half(), metadata=metadata(TOKEN))
            while not list(folder.glob("*/*.aside")):
                assert not call.done()
            half_sent.set()
    newest = folder / "landlord" / "0-3.weights"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\0")
    with process(folder.parent) as address, connected(lambda: address, tmp_path / "node") as client:
        assert not list(folder.glob("*/*.aside"))
        assert not newest.exists()
        assert is_filled(client.fetch("landlord"), 2)
        client.publish("landlord", 3, filled(3))
        assert client.wait("landlord", 2, timeout=20) == 3


def test_clients_outlast_a_server(tmp_path: Path) -> None:
    where: list[str] = []
    with connected(lambda: where[-1], tmp_path / "node") as client:
        with process(tmp_path / "server") as address:
            where.append(address)
            client.publish("landlord", 1, filled(1))
            assert client.wait("landlord", 0, timeout=20) == 1
        with process(tmp_path / "server", port=int(address.rpartition(":")[2])) as again:
            assert again == address
            client.publish("landlord", 2, filled(2))
            assert client.wait("landlord", 1, timeout=20) == 2
        with process(tmp_path / "server") as elsewhere:
            where.append(elsewhere)
            client.publish("landlord", 3, filled(3))
            assert client.wait("landlord", 2, timeout=20) == 3
            assert is_filled(client.fetch("landlord"), 3)


def test_a_call_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    where: list[str] = []
    with connected(lambda: where[-1] if where else None, tmp_path / "node") as client:
        publishing = threading.Thread(target=client.publish, args=("landlord", 1, filled(1)))
        publishing.start()
        with process(tmp_path / "server") as address:
            where.append(address)
            publishing.join()
            assert client.latest("landlord") == 1
    with (
        connected(lambda: None, tmp_path / "node", patience=0.1) as client,
        pytest.raises(UnreachableError, match="not said yet where it is"),
    ):
        client.publish("landlord", 2, filled(2))


def test_closing_ends_a_call_that_waits(tmp_path: Path) -> None:
    failures: list[TroupeError] = []

    def fetch() -> None:
        try:
            client.fetch("landlord")
        except TroupeError as error:
            failures.append(error)

    with connected(lambda: None, tmp_path, patience=100) as client:
        fetching = threading.Thread(target=fetch)
        fetching.start()
    fetching.join()
    assert [type(failure) for failure in failures] == [UnreachableError]


def test_a_pinned_version_stays(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    with process(folder) as address, connected(lambda: address, tmp_path / "node") as client:
        for version in range(1, 6):
            client.publish("landlord", version, filled(version))
            if version < 3:
                client.pin("landlord", version)
                client.pin("landlord", version)
        with pytest.raises(MissingError, match="version 3"):
            client.pin("landlord", 3)
    shutil.rmtree(folder / "newest")
    damaged = folder / "pinned" / "landlord" / "0-2.weights"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    with process(folder) as address, connected(lambda: address, tmp_path / "other") as client:
        assert is_filled(client.fetch("landlord", 1), 1)
        with pytest.raises(DamagedError, match=str(damaged)):
            client.fetch("landlord", 2)
    assert damaged.exists()


class Board:
    """A notice board of one process."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, object]] = {}
        self.ready = threading.Event()

    def put(self, name: str, document: dict[str, object]) -> None:
        self.documents[name] = document
        self.ready.set()

    def get(self, name: str) -> dict[str, object] | None:
        return self.documents.get(name)


class Setting:
    """What the worker needs of a `WorkerSetting` and its connections."""

    weights_token = TOKEN
    host, tls = "127.0.0.1", None
    job = SimpleNamespace(lag=1)

    def __init__(self, folder: Path, board: Board) -> None:
        self.run_folder = folder / "run"
        self.node_folder = folder / "node"
        self.board = board
        self.metrics = Metrics()
        self.reporter = SimpleNamespace(stop=threading.Event())

    @contextmanager
    def open(self) -> Iterator["Setting"]:
        yield self


@contextmanager
def working(folder: Path, board: Board) -> Iterator[Setting]:
    """A weight server as a worker, on a thread; told to stop at the end."""
    setting = Setting(folder, board)
    board.ready.clear()
    thread = threading.Thread(target=WeightServer(setting).run)
    thread.start()
    try:
        assert board.ready.wait(30.0)
        yield setting
    finally:
        setting.reporter.stop.set()
        thread.join()


def test_the_worker_comes_back_to_its_port_if_it_is_free(tmp_path: Path) -> None:
    board = Board()
    with working(tmp_path, board):
        first = str(board.documents["weights"]["address"])
    with working(tmp_path, board):
        assert board.documents["weights"]["address"] == first
    host, _, port = first.rpartition(":")
    with socket.create_server((host, int(port))), working(tmp_path, board):
        assert board.documents["weights"]["address"] != first


def test_the_worker_tells_its_address_again_to_a_store_that_lost_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_REMIND_SECONDS", 0.01)
    board = Board()
    with working(tmp_path, board):
        held = dict(board.documents)
        board.ready.clear()
        board.documents.clear()
        assert board.ready.wait(20)
        assert board.documents == held


def test_the_worker_stays_until_those_who_watch_have_left(tmp_path: Path) -> None:
    board = Board()
    with working(tmp_path, board) as setting:
        where = str(board.documents["weights"]["address"])
        with connected(lambda: where, tmp_path / "cache") as client:
            client.publish("landlord", 1, filled(1))
            assert client.wait("landlord", 0, timeout=20) == 1
            assert setting.metrics.snapshot()["watchers"] == 1
            setting.reporter.stop.set()
            assert is_filled(client.fetch("landlord"), 1)
            client.pin("landlord", 1)
    assert (tmp_path / "run" / "pinned" / "landlord" / "0-1.weights").exists()
