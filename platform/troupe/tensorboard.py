"""TensorBoard's event file: scalars, each written at once, so that a full disk is noticed.

Libraries that write it bring torch into the launcher, which has no other use for it.
"""

import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from troupe.wire.tensorboard_pb2 import Event, SessionLog, Summary

_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, bits reversed."""


class EventWriter:
    """Writes scalars to a new event file."""

    def __init__(self, folder: Path, time: float) -> None:
        name = f"events.out.tfevents.{time:.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._write(Event(wall_time=time, file_version="brain.Event:2"))

    def restart(self, step: int, time: float) -> None:
        """Say that the run goes on from `step`: what was written of later steps is no longer shown."""
        log = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time, step=step, session_log=log))

    def scalars(self, values: Mapping[str, float], step: int, time: float) -> None:
        """Write named numbers at a step."""
        named = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Event(wall_time=time, step=step, summary=Summary(value=named)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        """One record, as TFRecord files have it: length, its checksum, content, its checksum."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        self._file.write(length + _checksum(length) + content + _checksum(content))
        self._file.flush()


def _checksum(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
    """The CRC-32C of some bytes (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _row(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = [_row(value) for value in range(256)]
