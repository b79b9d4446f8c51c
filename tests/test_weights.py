"""Weights on the real server: what is published is what is fetched, and nothing else ever is."""

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from troupe.errors import TroupeError
from troupe.metrics import Metrics
from troupe.weights import framing
from troupe.weights.certificates import self_signed
from troupe.weights.channel import PUBLISH
from troupe.weights.client import Weights, WeightsClient
from troupe.weights.credentials import Tls, metadata
from troupe.weights.errors import (
    FencedError,
    MissingError,
    NoRoomError,
    NotNewerError,
    RefusedError,
    UnreachableError,
)
from troupe.weights.manifest import Key, Payload, describe
from troupe.weights.relay import Upstream
from troupe.weights.server import MAX_BYTES, serve
from troupe.weights.watch import unpack
from troupe.wire.weights_pb2 import FetchRequest, Notice, Piece, PublishReply, Whole
from troupe.wire.weights_pb2_grpc import WeightsStub

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
        self.folder = folder / "newest"
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        serving = serve(
            self.folder,
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
        if self._thread.is_alive():
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


def is_filled(weights: Weights, value: float) -> bool:
    return all((tensor == value).all() for tensor in weights.tensors.values())


def publish_raw(
    server: Running, messages: Iterable[bytes], token: str | None = TOKEN
) -> PublishReply:
    """Send what no client of ours would."""
    with grpc.insecure_channel(server.address) as channel:
        publish = channel.stream_unary(PUBLISH, None, PublishReply.FromString)
        sent = None if token is None else metadata(token)
        return publish(iter(messages), metadata=sent, timeout=10)


def refusal(server: Running, *messages: bytes, token: str | None = TOKEN) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        publish_raw(server, messages, token)
    return caught.value.code()


def payload(version: int = 1, attempt: int = 0) -> Payload:
    return describe("landlord", Key(attempt, version), filled(version), publisher="test")


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


def test_watchers_hear_of_the_newest_version(client: WeightsClient) -> None:
    assert client.wait("landlord", -1, timeout=0.01) is None
    for version in (3, 5):
        client.publish("landlord", version, filled(version))
        assert client.wait("landlord", version - 1, timeout=10) == version
    assert client.latest("landlord") == 5
    assert client.latest("peasant") is None


def test_a_version_can_be_fetched_until_two_newer_ones_are_there(client: WeightsClient) -> None:
    for version in (1, 2, 3):
        client.publish("landlord", version, filled(version))
    assert is_filled(client.fetch("landlord", 2), 2)
    client.wait("landlord", 2, timeout=10)
    assert client.fetch("landlord").version == 3
    with pytest.raises(MissingError, match="version 1 of landlord"):
        client.fetch("landlord", 1)
    with pytest.raises(MissingError, match="peasant"):
        client.fetch("peasant")


def test_publishing_again_changes_nothing_but_going_back_is_refused(client: WeightsClient) -> None:
    client.publish("landlord", 2, filled(2))
    client.publish("landlord", 2, filled(2))
    with pytest.raises(NotNewerError, match="version 2 of attempt 0 of landlord is not newer"):
        client.publish("landlord", 2, filled(3))
    with pytest.raises(NotNewerError):
        client.publish("landlord", 1, filled(1))
    assert is_filled(client.fetch("landlord"), 2)


def test_a_later_attempt_may_go_back_and_fences_the_earlier_one(
    server: Running, client: WeightsClient, tmp_path: Path
) -> None:
    client.publish("landlord", 9, filled(9))
    with connected(server, tmp_path / "other node", attempt=1) as successor:
        successor.publish("landlord", 4, filled(4))
        with pytest.raises(FencedError, match="attempt 1 of the run has begun"):
            client.publish("landlord", 10, filled(10))
        with pytest.raises(FencedError):
            client.publish("peasant", 1, filled(1))
        assert successor.latest("landlord") == 4
        weights = successor.fetch("landlord")
    assert (weights.attempt, weights.version) == (1, 4)
    assert is_filled(weights, 4)


def test_calls_without_the_right_token_are_refused(server: Running, tmp_path: Path) -> None:
    with connected(server, tmp_path, token="a wrong one") as stranger:
        with pytest.raises(RefusedError, match="token"):
            stranger.publish("landlord", 1, filled(1))
        with pytest.raises(RefusedError):
            stranger.latest("landlord")
        with pytest.raises(RefusedError):
            stranger.wait("landlord", 0, timeout=10)
        with pytest.raises(RefusedError):
            stranger.fetch("landlord")
        with pytest.raises(RefusedError):
            stranger.pin("landlord", 1)
    opening = framing.opening(payload().manifest)
    assert refusal(server, opening, token=None) == grpc.StatusCode.UNAUTHENTICATED


def test_what_is_too_large_is_refused_before_any_of_it_is_sent(tmp_path: Path) -> None:
    sent = payload()
    sent.manifest.size = sent.manifest.parts[0].size = 1 << 50
    with running(tmp_path, max_bytes=1 << 20) as server:
        assert refusal(server, framing.opening(sent.manifest)) == grpc.StatusCode.RESOURCE_EXHAUSTED
        with connected(server, tmp_path / "node") as client:
            with pytest.raises(NoRoomError, match="at most 1048576 are accepted"):
                client.publish("landlord", 1, filled(0, size=1 << 20))
            client.publish("landlord", 1, filled(1))
        with (
            connected(server, tmp_path / "small node", max_bytes=1000) as client,
            pytest.raises(NoRoomError),
        ):
            client.fetch("landlord")
    sent.manifest.version = 2
    sent.manifest.size = sent.manifest.parts[0].size = shutil.disk_usage(tmp_path).total + 1
    with running(tmp_path, max_bytes=1 << 60) as server:
        assert refusal(server, framing.opening(sent.manifest)) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_stream_that_is_not_sound_leaves_nothing(server: Running, client: WeightsClient) -> None:
    manifest, buffers = payload()
    opening = framing.opening(manifest)
    (message,) = framing.frames(buffers)
    flipped = message[:-1] + bytes([message[-1] ^ 1])
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(server, opening, flipped) == grpc.StatusCode.DATA_LOSS
    assert refusal(server, opening) == invalid
    assert refusal(server, opening, message, message) == invalid
    assert refusal(server, opening, *framing.frames(buffers[:1])) == invalid
    assert refusal(server, opening, framing.frame(64, buffers)) == invalid
    assert refusal(server, opening, opening) == invalid
    assert refusal(server, message) == invalid
    assert refusal(server) == invalid
    assert refusal(server, b"\xff\xff\xff") == invalid
    manifest.policy = "../outside"
    assert refusal(server, framing.opening(manifest), message) == invalid
    assert client.latest("landlord") is None
    assert not publish_raw(server, [opening, message]).already
    assert publish_raw(server, [opening, message]).already


def test_the_generated_stubs_read_and_write_what_we_do(server: Running) -> None:
    manifest, buffers = payload()
    data = b"".join(buffers)
    with grpc.insecure_channel(server.address) as channel:
        stub = WeightsStub(channel)
        middle = len(data) // 2
        pieces = [
            Piece(manifest=manifest),
            Piece(offset=0, data=data[:middle]),
            Piece(offset=middle, data=data[middle:]),
        ]
        stub.Publish(iter(pieces), metadata=metadata(TOKEN))
        opening, *rest = stub.Fetch(FetchRequest(policy="landlord"), metadata=metadata(TOKEN))
    assert opening.manifest == manifest
    assert b"".join(piece.data for piece in rest) == data


FETCH_ONCE = """
import sys
from pathlib import Path
from troupe.weights.client import WeightsClient

address, folder, token = sys.argv[1:]
client = WeightsClient(lambda: address, token=token, folder=Path(folder))
client.latest("landlord")
print("watching", flush=True)
client.wait("landlord", 0, timeout=30)
print(float(client.fetch("landlord").tensors["b"].mean()), flush=True)
client.close()
"""


def test_the_processes_of_a_node_fetch_a_version_once(
    server: Running, client: WeightsClient, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", FETCH_ONCE, server.address, str(tmp_path / "shared"), TOKEN]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["watching\n"] * 2
    tensors = filled(7, size=300_000)
    client.publish("landlord", 1, tensors)
    assert [process.communicate()[0] for process in processes] == ["7.0\n"] * 2
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert size < server.metrics.snapshot()["bytes_sent"] < 1.01 * size


def test_a_relay_fetches_once_and_passes_notices_on(server: Running, tmp_path: Path) -> None:
    upstream = Upstream(lambda: server.address, TOKEN)
    with (
        running(tmp_path / "relay", upstream=upstream) as relay,
        connected(server, tmp_path / "learner") as learner,
        connected(relay, tmp_path / "node a") as one,
        connected(relay, tmp_path / "node b") as other,
    ):
        assert one.latest("landlord") is None
        learner.publish("landlord", 1, filled(1, size=300_000))
        for client in (one, other):
            assert client.wait("landlord", 0, timeout=10) == 1
            assert is_filled(client.fetch("landlord"), 1)
        sent, passed_on = (s.metrics.snapshot()["bytes_sent"] for s in (server, relay))
        assert passed_on == 2 * sent
        learner.publish("landlord", 2, filled(2))
        assert other.wait("landlord", 1, timeout=10) == 2
        assert is_filled(other.fetch("landlord", 1), 1)
        with pytest.raises(MissingError, match="version 8"):
            one.fetch("landlord", 8)
        with pytest.raises(TroupeError, match="relay"):
            one.publish("landlord", 3, filled(3))


def test_a_relay_has_small_weights_with_their_notice_from_a_server_it_knows_by_name(
    tmp_path: Path,
) -> None:
    made = self_signed(("troupe",))
    text = replace(made, name="troupe").to_text()
    tls = Tls.from_text(text)
    assert tls == replace(made, name="troupe")
    assert str(tls) == str(replace(tls, key=b"another")), "the key is never shown"
    with running(tmp_path / "server", tls=tls) as server:
        upstream = Upstream(lambda: server.address, TOKEN, tls)
        with (
            running(tmp_path / "relay", upstream=upstream) as relay,
            connected(server, tmp_path / "learner", tls=tls) as learner,
            connected(relay, tmp_path / "node") as actor,
        ):
            learner.publish("landlord", 1, filled(1))
            assert actor.wait("landlord", 0, timeout=10) == 1
            assert is_filled(actor.fetch("landlord"), 1)
            assert relay.metrics.snapshot()["carried"] == 1
            assert "fetches" not in relay.metrics.snapshot()
            learner.publish("landlord", 2, filled(2, size=300_000))
            assert actor.wait("landlord", 1, timeout=10) == 2
            assert is_filled(actor.fetch("landlord"), 2)
            assert relay.metrics.snapshot()["fetches"] == 1


def test_nobody_ever_sees_torn_weights(
    server: Running, client: WeightsClient, tmp_path: Path
) -> None:
    last = 40
    torn: list[int] = []

    def follow(folder: Path) -> None:
        held: list[Weights] = []
        version = 0
        with connected(server, folder) as actor:
            while version < last:
                newer = actor.wait("landlord", version, timeout=20)
                assert newer is not None
                held = [*held[-2:], actor.fetch("landlord")]
                version = held[-1].version
                # What was fetched before must stay as it was, though its file is gone.
                torn.extend(old.version for old in held if not is_filled(old, old.version))

    folders = [tmp_path / "shared", tmp_path / "shared", tmp_path / "alone"]
    actors = [threading.Thread(target=follow, args=(folder,)) for folder in folders]
    for actor in actors:
        actor.start()
    for version in range(1, last + 1):
        client.publish("landlord", version, filled(version, size=30_000 + version))
    for actor in actors:
        actor.join()
    assert torn == []


def test_tls_keeps_out_whoever_has_no_certificate(tmp_path: Path) -> None:
    tls = self_signed()
    with running(tmp_path / "server", tls=tls) as server:
        with connected(server, tmp_path / "node", tls=tls) as client:
            client.publish("landlord", 1, filled(1))
            assert is_filled(client.fetch("landlord"), 1)
        for other in (None, Tls(authority=tls.authority), self_signed()):
            with (
                connected(server, tmp_path / "node", tls=other, patience=0.2) as stranger,
                pytest.raises(UnreachableError),
            ):
                stranger.publish("landlord", 2, filled(2))
    assert "PRIVATE" not in repr(tls)


def test_a_small_version_comes_with_its_notice(server: Running, tmp_path: Path) -> None:
    with connected(server, tmp_path / "a") as learner, connected(server, tmp_path / "b") as actor:
        assert actor.latest("landlord") is None
        for version in (1, 2):
            learner.publish("landlord", version, filled(version))
            assert actor.wait("landlord", version - 1, timeout=10) == version
        assert [actor.fetch("landlord", v).tensors["a"].flat[0] for v in (1, 2, None)] == [1, 2, 2]
    assert "bytes_sent" not in server.metrics.snapshot()
    assert not list((tmp_path / "b").rglob("*.weights"))


def test_an_unsound_version_in_a_notice_is_left_to_be_fetched() -> None:
    sound = payload()
    for manifest, data, taken in (
        (sound.manifest, b"".join(sound.buffers), True),
        (sound.manifest, b"".join(sound.buffers)[:-1] + b"!", False),
        (sound.manifest, b"", False),
    ):
        notice = Notice(
            policy=manifest.policy,
            attempt=manifest.attempt,
            version=manifest.version,
            whole=Whole(manifest=manifest, payload=data),
        )
        assert (unpack(notice) is not None) == taken
        notice.version += 1
        assert unpack(notice) is None


def test_an_older_version_is_fetched_once_by_a_node_too(server: Running, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    large = {"a": np.zeros(100_000, np.float32)}
    with connected(server, folder, keep=3) as one, connected(server, folder) as other:
        for version in range(2):
            one.publish("p", version, {"a": large["a"] + version})
        assert one.wait("p", 0, 10.0) == 1
        assert (one.fetch("p", 0).tensors["a"] == 0).all()
        sent = server.metrics.snapshot()["bytes_sent"]
        assert other.wait("p", 0, 10.0) == 1
        assert (other.fetch("p", 0).tensors["a"] == 0).all()
        assert server.metrics.snapshot()["bytes_sent"] == sent
        assert (other.fetch("p").tensors["a"] == 1).all()


def test_on_the_servers_node_nothing_is_fetched(server: Running, tmp_path: Path) -> None:
    large = np.zeros(100_000, np.float32)
    with connected(server, tmp_path / "node", served=(server.folder,)) as near:
        assert near.latest("p") is None
        assert near.at_hand("p") is None
        held = []
        for version in range(6):
            near.publish("p", version, {"a": large + version})
            assert near.wait("p", version - 1, 10.0) == version
            found = near.at_hand("p")
            assert found is not None
            assert (found.version, near.fetch("p").version) == (version, version)
            held.append(found)
        assert server.metrics.snapshot().get("bytes_sent", 0) == 0
    # Files that are written over are not those that somebody still reads.
    assert all((weights.tensors["a"] == weights.version).all() for weights in held)
