"""Pieces of a payload as gRPC messages, written and read without protobuf's copies.

What is written is exactly the serialised `Piece(offset=..., data=...)`: whoever uses the generated
stubs reads it. Protobuf would copy each megabyte into its own memory and out again, which costs
more than the network does on one machine.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from troupe.weights.errors import InvalidError
from troupe.wire.weights_pb2 import Manifest, Piece

CHUNK = 1 << 20
MAX_MESSAGE = 16 << 20
"""Room for the manifest of tens of thousands of tensors."""

# Field numbers and wire types: varint field 2, length-delimited field 3.
_OFFSET_TAG = b"\x10"
_DATA_TAG = b"\x1a"


class Chunk(NamedTuple):
    """Bytes of a payload, and where they belong."""

    offset: int
    data: memoryview


def opening(manifest: Manifest) -> bytes:
    """The first message of a stream."""
    return Piece(manifest=manifest).SerializeToString()


def read_opening(message: bytes) -> Manifest:
    """The manifest that opens a stream.

    Raises:
        InvalidError: the message is something else.
    """
    piece = _parse(message)
    if not piece.HasField("manifest") or piece.data:
        raise InvalidError("a stream of weights opens with its manifest alone")
    return piece.manifest


def frame(offset: int, buffers: Sequence[memoryview]) -> bytes:
    """The message for the bytes of `buffers`, end to end, at `offset`: one copy."""
    size = sum(buffer.nbytes for buffer in buffers)
    return b"".join((_OFFSET_TAG, _varint(offset), _DATA_TAG, _varint(size), *buffers))


def unframe(message: bytes) -> Chunk:
    """Read one message behind the first; its data is a view of `message`.

    Raises:
        InvalidError: the message holds no piece of a payload.
    """
    if message[:1] == _OFFSET_TAG:
        offset, at = _read_varint(message, 1)
        if message[at : at + 1] == _DATA_TAG:
            size, start = _read_varint(message, at + 1)
            if start + size == len(message):
                return Chunk(offset, memoryview(message)[start:])
    # Another writer may leave out a zero offset or write the fields the other way round.
    piece = _parse(message)
    if piece.HasField("manifest"):
        raise InvalidError("a manifest in the middle of a stream")
    return Chunk(piece.offset, memoryview(piece.data))


def frames(buffers: Iterable[memoryview], size: int = CHUNK) -> Iterator[bytes]:
    """Cut `buffers`, end to end, into messages of `size` bytes."""
    offset, gathered, room = 0, [], size
    for buffer in buffers:
        start = 0
        while start < buffer.nbytes:
            part = buffer[start : start + room]
            gathered.append(part)
            start += part.nbytes
            room -= part.nbytes
            if not room:
                yield frame(offset, gathered)
                offset, gathered, room = offset + size, [], size
    if gathered:
        yield frame(offset, gathered)


def _parse(message: bytes) -> Piece:
    try:
        return Piece.FromString(message)
    except DecodeError:
        raise InvalidError("these bytes are not a piece of weights") from None


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; (-1, end of message) where it does not end."""
    number = shift = 0
    for position in range(at, min(at + 10, len(message))):
        byte = message[position]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position + 1
        shift += 7
    return -1, len(message)
