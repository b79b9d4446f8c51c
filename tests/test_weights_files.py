"""Weights at rest and on their way: files, manifests, messages, and who may listen."""

import asyncio
import fcntl
import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.errors import UserError
from troupe.weights import framing
from troupe.weights.credentials import Tls, holds, metadata
from troupe.weights.errors import (
    DamagedError,
    InvalidError,
    MissingError,
    NoRoomError,
)
from troupe.weights.files import SPARE, Shelf, Stored
from troupe.weights.framing import Chunk
from troupe.weights.manifest import Key, check, describe
from troupe.weights.server import PortError, serve
from troupe.wire.weights_pb2 import Manifest, Part, Piece, Tensor

TOKEN = "a token for tests"


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 50))
def test_frames_are_what_protobuf_reads_and_hold_everything_in_order(
    buffers: list[bytes], size: int
) -> None:
    messages = list(framing.frames(map(memoryview, buffers), size))
    data = b"".join(buffers)
    position = 0
    for message in messages:
        piece, chunk = Piece.FromString(message), framing.unframe(message)
        assert (piece.offset, piece.data) == (chunk.offset, chunk.data)
        assert piece.offset == position
        assert piece.data == data[position : position + size]
        position += size
    assert position >= len(data)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=300))
def test_messages_of_other_writers_are_read(offset: int, data: bytes) -> None:
    message = Piece(offset=offset, data=data).SerializeToString()
    backwards = Piece(data=data).SerializeToString() + Piece(offset=offset).SerializeToString()
    assert framing.unframe(message) == framing.unframe(backwards) == Chunk(offset, memoryview(data))


@given(st.binary(max_size=40))
def test_no_bytes_do_more_than_raise_invalid(message: bytes) -> None:
    for read in (framing.unframe, framing.read_opening):
        with suppress(InvalidError):
            read(message)


def manifest(**changes: object) -> Manifest:
    fields = {
        "policy": "landlord",
        "version": 1,
        "tensors": [Tensor(name="a", dtype="<f4", shape=[4, 4], offset=0)],
        "parts": [Part(offset=0, size=64)],
        "size": 64,
    }
    return Manifest(**(fields | changes))


def test_a_manifest_that_contradicts_itself_is_refused() -> None:
    check(manifest(), 64)
    with pytest.raises(NoRoomError, match="64 bytes, at most 63"):
        check(manifest(), 63)
    a = Tensor(name="a", dtype="<f4", shape=[8], offset=0)
    wrong: list[dict[str, object]] = [
        {"policy": ""},
        {"policy": "../landlord"},
        {"policy": "a" * 129},
        {"encoding": 7},
        {"size": 65},
        {"parts": []},
        {"parts": [Part(offset=0, size=32), Part(offset=33, size=31)]},
        {"parts": [Part(offset=0, size=1)] * 5000},
        {"tensors": [a, a]},
        {"tensors": [a, Tensor(name="b", dtype="<f4", shape=[1], offset=0)]},
        {"tensors": [Tensor(name="a", dtype="<f4", shape=[17], offset=0)]},
        {"tensors": [Tensor(name="a", dtype="<f4", shape=[2**40, 2**40], offset=0)]},
        {"tensors": [Tensor(name="a", dtype="<f4", shape=[1] * 17, offset=0)]},
        {"tensors": [Tensor(name="a", dtype="<f4", shape=[1], offset=4)]},
        {"tensors": [Tensor(name="a", dtype="<f4", shape=[1], offset=64)]},
        {"tensors": [Tensor(name="a", dtype="|O", shape=[1], offset=0)]},
    ]
    for changes in wrong:
        with pytest.raises(InvalidError):
            check(manifest(**changes), 1 << 30)


def test_tensors_that_cannot_travel_are_refused() -> None:
    key = Key(0, 1)
    with pytest.raises(InvalidError, match="<c8"):
        describe("p", key, {"a": np.zeros(1, np.complex64)}, publisher="test")
    with pytest.raises(InvalidError, match="bfloat16 travels as uint16"):
        describe("p", key, {"a": np.zeros(1, np.float32)}, publisher="test", bfloat16={"a"})


def put(shelf: Shelf, version: int, size: int = 10_000) -> Stored:
    """A version of three parts, the last one without bytes."""
    tensors = {"a": np.full(size, version, np.int64)}
    described, buffers = describe("landlord", Key(0, version), tensors, publisher="test")
    data = b"".join(buffers)
    del described.parts[:]
    for start, end in ((0, 100), (100, len(data)), (len(data), len(data))):
        whole = describe(
            "x", Key(0, 0), {"x": np.frombuffer(data[start:end], np.uint8)}, publisher=""
        )
        checksum = whole.manifest.parts[0].checksum
        described.parts.append(Part(offset=start, size=end - start, checksum=checksum))
    with shelf.incoming(described) as incoming:
        incoming.write(Chunk(0, memoryview(data)[:60]))
        incoming.write(Chunk(60, memoryview(data)[60:]))
        return incoming.commit()


def test_a_version_of_several_parts_is_stored_and_verified(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    put(shelf, 3)
    stored = shelf.open("landlord", Key(0, 3))
    stored.verify()
    assert (stored.tensors()["a"] == 3).all()
    assert shelf.keys("landlord") == [Key(0, 3)]
    assert shelf.policies() == ["landlord"]


def test_what_is_not_committed_is_gone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    described, _ = describe("landlord", Key(0, 1), {"a": np.zeros(9)}, publisher="test")
    with pytest.raises(InvalidError, match="0 bytes of 72"), shelf.incoming(described) as incoming:
        incoming.commit()
    assert list((tmp_path / "landlord").iterdir()) == []


def test_memory_is_used_again_only_when_nobody_reads_it(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    read = put(shelf, 1).tensors()
    inode = shelf.path("landlord", Key(0, 1)).stat().st_ino
    put(shelf, 2)
    shelf.keep("landlord", 1)
    assert (tmp_path / "landlord" / SPARE).stat().st_ino == inode
    third = put(shelf, 3)
    assert third.path.stat().st_ino != inode
    assert (read["a"] == 1).all()
    del third
    inode = shelf.path("landlord", Key(0, 2)).stat().st_ino
    shelf.keep("landlord", 1)
    fourth = put(shelf, 4, size=50)
    assert fourth.path.stat().st_ino == inode
    assert (shelf.open("landlord", Key(0, 4)).tensors()["a"] == np.full(50, 4)).all()


def test_a_file_that_turns_into_another_version_is_not_taken_for_it(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    put(shelf, 1).path.rename(shelf.path("landlord", Key(0, 2)))
    with pytest.raises(MissingError, match="version 2"):
        shelf.open("landlord", Key(0, 2))
    with shelf.path("landlord", Key(0, 2)).open("r+b") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(MissingError, match="any more"):
            shelf.open("landlord", Key(0, 2))


@pytest.mark.parametrize("place", [0, 5, 9, 15, 17, 40, 60])
def test_a_damaged_head_is_noticed_when_it_is_opened(tmp_path: Path, place: int) -> None:
    path = put(Shelf(tmp_path), 1).path
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=str(path)):
        Stored(path)


def test_a_file_cut_short_is_noticed(tmp_path: Path) -> None:
    path = put(Shelf(tmp_path), 1).path
    for size in (path.stat().st_size - 1, 4096, 50, 10, 0):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(DamagedError, match=str(path)):
            Stored(path)


def test_only_the_right_token_opens() -> None:
    assert holds("secret", metadata("secret"))
    assert holds("secret", [("authorization", b"Bearer secret")])
    assert not holds("secret", metadata("secret2"))
    assert not holds("secret", metadata("ö"))
    assert not holds("secret", [])


def start(folder: Path, **options) -> None:
    """Start a server that is expected not to start."""

    async def run() -> None:
        options.setdefault("token", TOKEN)
        await serve(folder, on_ready=print, stop=asyncio.Event(), **options)

    asyncio.run(run())


def test_a_server_that_would_be_open_to_others_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="token"):
        start(tmp_path, token="")
    with pytest.raises(UserError, match=r"0\.0\.0\.0 is reachable from other machines"):
        start(tmp_path, host="0.0.0.0")
    with pytest.raises(UserError, match="certificate and its key"):
        start(tmp_path, host="0.0.0.0", tls=Tls(authority=b""))


def test_two_servers_share_neither_port_nor_folder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(PortError, match=rf"127\.0\.0\.1:{port}; .*0 takes a free one"):
            start(tmp_path, port=port)
    with (tmp_path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=f"another server uses {tmp_path}"):
            start(tmp_path)
