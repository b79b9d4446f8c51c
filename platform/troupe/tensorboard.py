"""TensorBoard's event file, as far as scalars need it.

The official writers bring a deep learning framework or a thread with a queue that hides a full
disk. The format is small: records of length, masked CRC-32C of the length, data, masked CRC-32C of
the data (tensorflow/core/lib/io/record_writer.h), each record an `Event` protocol message
(tensorflow/core/util/event.proto).
"""

import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

_DOUBLE, _BYTES, _FLOAT = 1, 2, 5  # wire types of protocol buffers; 0 is a varint
_SESSION_START = 1


class EventWriter:
    """Appends scalars to a new event file. Every write is handed to the system at once."""

    def __init__(self, folder: Path, time: float) -> None:
        name = f"events.out.tfevents.{time:.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab", buffering=0)
        self._write(_event(time, 0, _field(3, b"brain.Event:2")))

    def restart(self, step: int, time: float) -> None:
        """Say that the run goes on from `step`: what was written of later steps is no longer shown."""
        status = _varint(1 << 3) + _varint(_SESSION_START)
        self._write(_event(time, step, _field(7, status)))

    def scalars(self, values: Mapping[str, float], step: int, time: float) -> None:
        """Write named numbers at a step."""
        summary = b"".join(_field(1, _value(name, value)) for name, value in values.items())
        self._write(_event(time, step, _field(5, summary)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))


def _event(time: float, step: int, what: bytes) -> bytes:
    return _tag(1, _DOUBLE) + struct.pack("<d", time) + _tag(2, 0) + _varint(step) + what


def _value(name: str, value: float) -> bytes:
    return _field(1, name.encode()) + _tag(2, _FLOAT) + struct.pack("<f", value)


def _field(number: int, data: bytes) -> bytes:
    return _tag(number, _BYTES) + _varint(len(data)) + data


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """CRC-32 with Castagnoli's polynomial (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_entry(byte) for byte in range(256)]
