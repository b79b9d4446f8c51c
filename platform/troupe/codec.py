"""Blocks of episodes as bytes: a small header, then every column's raw buffer.

    magic "TRPE" | format u16 | zero u16 | header bytes u32 | zero u32 | total bytes u64 | checksum u64
    header       | JSON: who played, how many steps and fragments, and each column's name, dtype and row shape
    columns      | raw little-endian buffers, each starting at a multiple of 64

The checksum (XXH3, 64 bits) covers everything behind it. Decoding copies nothing: the columns are
read-only views of the buffer. Nothing is believed before it is checked, and nothing is unpickled.
"""

import math
import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pydantic
import xxhash

from troupe.episodes import Array, Columns, Ending, Episodes
from troupe.errors import TroupeError

MAGIC = b"TRPE"
FORMAT = 1
MAX_BYTES = 512 * 1024 * 1024
DTYPES = frozenset(
    ["|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]
)

_PREFIX = struct.Struct("<4sHHIIQQ")
_ALIGN = 64
_MAX_HEADER = 64 * 1024
_STEP = {"reward": "<f4", "log_prob": "<f4", "version": "<u4"}
_FRAGMENT = {"length": "<i4", "seat": "|u1", "group": "<i8", "ending": "|u1"}
_ROWS = {
    "observation": "steps",
    "action": "steps",
    "step": "steps",
    "fragment": "fragments",
    "final": "fragments",
    "initial": "fragments",
}


class CodecError(TroupeError):
    """Bytes that are not a sound block of episodes, or a block that cannot be written."""


class _Column(NamedTuple):
    section: str
    name: str
    dtype: str
    row: tuple[int, ...]


class _Header(pydantic.BaseModel):
    policy: str = pydantic.Field(max_length=256)
    actor: str = pydantic.Field(max_length=256)
    incarnation: int = pydantic.Field(ge=0)
    attempt: int = pydantic.Field(ge=0)
    steps: int = pydantic.Field(ge=0, le=MAX_BYTES)
    fragments: int = pydantic.Field(ge=0, le=MAX_BYTES)
    columns: list[_Column] = pydantic.Field(max_length=64)


def schema_id(block: Episodes) -> str:
    """A short name for the columns a block has: blocks of the same one can be laid end to end."""
    text = repr([column for column, _ in _table(block)])
    return f"{xxhash.xxh3_64_intdigest(text.encode()):016x}"


def encode(block: Episodes) -> bytearray:
    """Write a block as bytes.

    Raises:
        CodecError: a column's dtype cannot travel, or its length does not fit the block.
    """
    table = _table(block)
    header = _Header(
        policy=block.policy,
        actor=block.actor,
        incarnation=block.incarnation,
        attempt=block.attempt,
        steps=block.steps,
        fragments=block.fragments,
        columns=[column for column, _ in table],
    )
    _check(header, block)
    text = header.model_dump_json().encode()
    offsets, total = _layout(len(text), [array.nbytes for _, array in table])
    out = bytearray(total)
    view = memoryview(out)
    view[_PREFIX.size : _PREFIX.size + len(text)] = text
    for offset, (column, array) in zip(offsets, table, strict=True):
        target = np.frombuffer(view, column.dtype, array.size, offset)
        target[:] = array.reshape(-1)
    checksum = xxhash.xxh3_64_intdigest(view[_PREFIX.size :])
    _PREFIX.pack_into(out, 0, MAGIC, FORMAT, 0, len(text), 0, total, checksum)
    return out


def decode(data: bytes | bytearray | memoryview, *, max_bytes: int = MAX_BYTES) -> Episodes:
    """Read a block; its columns are read-only views of `data`.

    Raises:
        CodecError: the bytes are cut, damaged, too large, of another format, or contradict themselves.
    """
    view = memoryview(data).toreadonly()
    header, start = _read_header(view, max_bytes)
    sizes = [
        math.prod(column.row) * np.dtype(column.dtype).itemsize * _rows(header, column.section)
        for column in header.columns
    ]
    offsets, total = _layout(start - _PREFIX.size, sizes)
    if total != len(view):
        raise CodecError(f"block: its columns need {total} bytes, it has {len(view)}")
    sections: dict[str, dict[str, Array]] = {section: {} for section in _ROWS}
    for column, offset in zip(header.columns, offsets, strict=True):
        rows = _rows(header, column.section)
        flat = np.frombuffer(view, column.dtype, rows * math.prod(column.row), offset)
        sections[column.section][column.name] = flat.reshape(rows, *column.row)
    block = Episodes(
        policy=header.policy,
        actor=header.actor,
        incarnation=header.incarnation,
        attempt=header.attempt,
        observation=sections["observation"],
        action=sections["action"],
        final=sections["final"],
        initial=sections["initial"],
        **sections["step"],
        **sections["fragment"],
    )
    _check(header, block)
    return block


def _read_header(view: memoryview, max_bytes: int) -> tuple[_Header, int]:
    if len(view) > max_bytes:
        raise CodecError(f"block: {len(view)} bytes, at most {max_bytes} are read")
    if len(view) < _PREFIX.size:
        raise CodecError(f"block: cut short after {len(view)} bytes")
    magic, form, zero, header_size, zero_too, total, checksum = _PREFIX.unpack_from(view)
    if magic != MAGIC or zero or zero_too:
        raise CodecError("block: these bytes are not a block of episodes")
    if form != FORMAT:
        raise CodecError(f"block: format {form}, this version reads format {FORMAT}")
    if total != len(view):
        raise CodecError(f"block: {len(view)} bytes of {total} arrived")
    if header_size > min(_MAX_HEADER, len(view) - _PREFIX.size):
        raise CodecError(f"block: a header of {header_size} bytes does not fit")
    if xxhash.xxh3_64_intdigest(view[_PREFIX.size :]) != checksum:
        raise CodecError("block: its checksum does not match: damaged on the way")
    end = _PREFIX.size + header_size
    try:
        header = _Header.model_validate_json(bytes(view[_PREFIX.size : end]))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise CodecError(f"block: bad header at {first['loc']}: {first['msg']}") from None
    _check_columns(header)
    return header, end


def _check_columns(header: _Header) -> None:
    names = {(column.section, column.name): column for column in header.columns}
    if len(names) != len(header.columns):
        raise CodecError("block: a column is named twice")
    for column in header.columns:
        if column.section not in _ROWS or len(column.name) > 128:
            raise CodecError(f"block: column {column.section}.{column.name} is of no known section")
        if column.dtype not in DTYPES:
            raise CodecError(
                f"block: column {column.name} has dtype {column.dtype!r}, which cannot travel"
            )
        if len(column.row) > 8 or any(not 0 <= size <= MAX_BYTES for size in column.row):
            raise CodecError(f"block: column {column.name} has row shape {column.row}")
    for section, known in (("step", _STEP), ("fragment", _FRAGMENT)):
        held = {c.name: (c.dtype, c.row) for c in header.columns if c.section == section}
        if held != {name: (dtype, ()) for name, dtype in known.items()}:
            raise CodecError(f"block: its {section} columns are {held}, not {known}")


def _check(header: _Header, block: Episodes) -> None:
    """What must hold between columns that are each well formed."""
    _check_columns(header)
    for column, array in _table(block):
        if array.shape[0] != _rows(header, column.section):
            raise CodecError(
                f"block: column {column.name} has {array.shape[0]} rows for {_rows(header, column.section)}"
            )
    if block.fragments and int(block.length.min()) < 1:
        raise CodecError(f"block: a fragment has {int(block.length.min())} steps")
    if int(block.length.sum(dtype=np.int64)) != block.steps:
        raise CodecError(
            f"block: its fragments hold {int(block.length.sum())} steps, it has {block.steps}"
        )
    if block.fragments and int(block.ending.max()) > max(Ending):
        raise CodecError(f"block: unknown ending {int(block.ending.max())}")


def _table(block: Episodes) -> list[tuple[_Column, Array]]:
    """Every column in the order in which it is written."""
    step: Columns = {name: getattr(block, name) for name in _STEP}
    fragment: Columns = {name: getattr(block, name) for name in _FRAGMENT}
    sections: Iterable[tuple[str, Columns]] = (
        ("observation", block.observation),
        ("action", block.action),
        ("step", step),
        ("fragment", fragment),
        ("final", block.final),
        ("initial", block.initial),
    )
    return [
        (_Column(section, name, array.dtype.newbyteorder("<").str, array.shape[1:]), array)
        for section, columns in sections
        for name, array in columns.items()
    ]


def _rows(header: _Header, section: str) -> int:
    return header.steps if _ROWS[section] == "steps" else header.fragments


def _layout(header_size: int, sizes: list[int]) -> tuple[list[int], int]:
    """Where each column starts, and how long the whole is."""
    offsets, position = [], _PREFIX.size + header_size
    for size in sizes:
        position = -(-position // _ALIGN) * _ALIGN
        offsets.append(position)
        position += size
    return offsets, position
