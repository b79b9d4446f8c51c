"""Blocks of episodes as bytes: a prefix, who played, the columns' schema, then their raw buffers.

    magic "TRPE" | format u16 | zero u16 | checksum u64
    total bytes u64 | steps u32 | fragments u32 | incarnation u32 | attempt u32 | turn u32
    policy bytes u16 | actor bytes u16 | schema bytes u32 | resume bytes u32
    policy       | UTF-8
    actor        | UTF-8
    schema       | JSON: each column's section, name, dtype and row shape
    sizes        | u64 for each column of `context`: how many rows it has
    resume       | opaque
    columns      | raw little-endian buffers, each starting at a multiple of 64

The checksum (XXH3, 64 bits) covers everything behind it. Decoding copies nothing: the columns are
read-only views of the buffer. Nothing is believed before it is checked, and nothing is unpickled.
"""

import math
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
import pydantic
import xxhash

from troupe.episodes import PROMPT, TOKEN, Array, Columns, Ending, Episodes
from troupe.errors import TroupeError

MAGIC = b"TRPE"
FORMAT = 3
MAX_BYTES = 512 * 1024 * 1024
MAX_RESUME = 16 * 1024 * 1024
DTYPES = frozenset(
    ["|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]
)

_SEAL = struct.Struct("<4sHHQ")
_COUNTS = struct.Struct("<QIIIIIHHII")
_PREFIX_BYTES = _SEAL.size + _COUNTS.size
_ALIGN = 64
_MAX_NAME = 256
_MAX_SCHEMA = 64 * 1024
_MAX_COLUMNS = 64
_LAST_ENDING = max(Ending)
_PADDING = [bytes(size) for size in range(_ALIGN)]
_STEP = {"reward": "<f4", "log_prob": "<f4", "version": "<u4"}
_FRAGMENT = {"length": "<i4", "seat": "|u1", "group": "<i8", "ending": "|u1"}
_CONTEXT = "context"
_PER_STEP = {
    "observation": True,
    "action": True,
    "step": True,
    "fragment": False,
    "final": False,
    "initial": False,
    _CONTEXT: False,
    "about": False,
}


class CodecError(TroupeError):
    """Bytes that are not a sound block of episodes, or a block that cannot be written."""


class _Column(NamedTuple):
    section: str
    name: str
    dtype: str
    row: tuple[int, ...]


_Schema = tuple[_Column, ...]
_SCHEMA_JSON = pydantic.TypeAdapter(_Schema)


class _Counts(NamedTuple):
    """The second part of the prefix."""

    total: int
    steps: int
    fragments: int
    incarnation: int
    attempt: int
    turn: int
    policy: int
    actor: int
    schema: int
    resume: int

    def rows(self, section: str) -> int:
        """How many rows every column of a section has; those of the context say it themselves."""
        return self.steps if _PER_STEP[section] else self.fragments


def schema_id(block: Episodes) -> str:
    """A short name for the columns a block has: blocks of the same one can be laid end to end."""
    schema = _write_schema(tuple(column for column, _ in _table(block)))
    return f"{xxhash.xxh3_64_intdigest(schema):016x}"


def encode(block: Episodes) -> bytearray:
    """Write a block as bytes.

    Raises:
        CodecError: a column's dtype cannot travel, or its length does not fit the block.
    """
    table = _table(block)
    schema = _write_schema(tuple(column for column, _ in table))
    policy, actor = _write_name(block.policy), _write_name(block.actor)
    sizes = _sizes(table)
    named: list[bytes] = [bytes(_PREFIX_BYTES), policy, actor, schema, sizes, block.resume]
    position = sum(len(part) for part in named)
    parts: list[bytes | Array] = [*named]
    for column, array in table:
        padding = _PADDING[-position % _ALIGN]
        parts += [padding, np.ascontiguousarray(array, column.dtype)]
        position += len(padding) + array.nbytes
    counts = _Counts(
        total=position,
        steps=block.steps,
        fragments=block.fragments,
        incarnation=block.incarnation,
        attempt=block.attempt,
        turn=block.turn,
        policy=len(policy),
        actor=len(actor),
        schema=len(schema),
        resume=len(block.resume),
    )
    _check(counts, table, block)
    # Joining is one pass over the memory; numpy arrays are bytes-like, which the stubs do not know.
    out = bytearray().join(parts)  # type: ignore[arg-type]
    try:
        _COUNTS.pack_into(out, _SEAL.size, *counts)
    except struct.error:
        raise CodecError(f"block: {counts} does not fit the format") from None
    checksum = xxhash.xxh3_64_intdigest(memoryview(out)[_SEAL.size :])
    _SEAL.pack_into(out, 0, MAGIC, FORMAT, 0, checksum)
    return out


def decode(data: bytes | bytearray | memoryview, *, max_bytes: int = MAX_BYTES) -> Episodes:
    """Read a block; its columns are read-only views of `data`.

    Raises:
        CodecError: the bytes are cut, damaged, too large, of another format, or contradict themselves.
    """
    view = memoryview(data).toreadonly()
    counts = _read_prefix(view, max_bytes)
    names = _PREFIX_BYTES + counts.policy
    start = names + counts.actor
    columns = start + counts.schema
    policy, actor = _read_name(view[_PREFIX_BYTES:names]), _read_name(view[names:start])
    schema = _read_schema(bytes(view[start:columns]))
    sizes = _read_sizes(view[columns:], schema)
    columns += 8 * len(sizes)
    position = columns + counts.resume
    if position > len(view):
        raise CodecError(f"block: its header alone needs more than the {len(view)} bytes it has")
    resume = bytes(view[columns:position])
    sections: dict[str, dict[str, Array]] = {section: {} for section in _PER_STEP}
    table: list[tuple[_Column, Array]] = []
    for column in schema:
        rows = sizes.pop(0) if column.section == _CONTEXT else counts.rows(column.section)
        position += -position % _ALIGN
        end = position + rows * _row_bytes(column)
        if end > len(view):
            raise CodecError(f"block: its columns need {end} bytes and more, it has {len(view)}")
        array: Array = np.ndarray((rows, *column.row), column.dtype, view, position)
        sections[column.section][column.name] = array
        table.append((column, array))
        position = end
    if position != len(view):
        raise CodecError(f"block: its columns need {position} bytes, it has {len(view)}")
    block = Episodes(
        policy=policy,
        actor=actor,
        incarnation=counts.incarnation,
        attempt=counts.attempt,
        observation=sections["observation"],
        action=sections["action"],
        final=sections["final"],
        initial=sections["initial"],
        context=sections[_CONTEXT],
        about=sections["about"],
        turn=counts.turn,
        resume=resume,
        **sections["step"],
        **sections["fragment"],
    )
    _check(counts, table, block)
    return block


def _read_prefix(view: memoryview, max_bytes: int) -> _Counts:
    if view.nbytes > max_bytes:
        raise CodecError(f"block: {view.nbytes} bytes, at most {max_bytes} are read")
    if len(view) < _PREFIX_BYTES:
        raise CodecError(f"block: cut short after {len(view)} bytes")
    magic, form, zero, checksum = _SEAL.unpack_from(view)
    if magic != MAGIC or zero:
        raise CodecError("block: these bytes are not a block of episodes")
    if form != FORMAT:
        raise CodecError(f"block: format {form}, this version reads format {FORMAT}")
    counts = _Counts(*_COUNTS.unpack_from(view, _SEAL.size))
    if counts.total != len(view):
        raise CodecError(f"block: {len(view)} bytes of {counts.total} arrived")
    if xxhash.xxh3_64_intdigest(view[_SEAL.size :]) != checksum:
        raise CodecError("block: its checksum does not match: damaged on the way")
    if counts.policy > _MAX_NAME or counts.actor > _MAX_NAME or counts.schema > _MAX_SCHEMA:
        raise CodecError("block: its names or its schema are too long")
    if _PREFIX_BYTES + counts.policy + counts.actor + counts.schema + counts.resume > len(view):
        raise CodecError(f"block: its header alone needs more than the {len(view)} bytes it has")
    return counts


def _write_name(name: str) -> bytes:
    encoded = name.encode(errors="replace")
    if len(encoded) > _MAX_NAME:
        raise CodecError(f"block: the name {name[:32]!r}... has more than {_MAX_NAME} bytes")
    return encoded


def _read_name(view: memoryview) -> str:
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError:
        raise CodecError("block: the name of its policy or actor is not UTF-8") from None


@lru_cache(maxsize=64)  # A run has few schemas and millions of blocks.
def _write_schema(schema: _Schema) -> bytes:
    _check_schema(schema)
    return _SCHEMA_JSON.dump_json(schema)


@lru_cache(maxsize=64)
def _read_schema(text: bytes) -> _Schema:
    try:
        schema = _SCHEMA_JSON.validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise CodecError(f"block: bad schema at {first['loc']}: {first['msg']}") from None
    _check_schema(schema)
    return schema


def _check_schema(schema: _Schema) -> None:
    if len(schema) > _MAX_COLUMNS:
        raise CodecError(f"block: {len(schema)} columns, at most {_MAX_COLUMNS} travel")
    if len({(column.section, column.name) for column in schema}) != len(schema):
        raise CodecError("block: a column is named twice")
    for column in schema:
        if column.section not in _PER_STEP or len(column.name) > _MAX_NAME:
            raise CodecError(f"block: column {column.section}.{column.name} is of no known section")
        if column.dtype not in DTYPES:
            raise CodecError(
                f"block: column {column.name} has dtype {column.dtype!r}, which cannot travel"
            )
        small = all(size >= 0 for size in column.row)
        # Sizes of zero are left out: numpy refuses huge shapes even when they hold nothing.
        small = small and math.prod(size for size in column.row if size) <= MAX_BYTES
        if len(column.row) > 8 or not small:
            raise CodecError(f"block: column {column.name} has row shape {column.row}")
    for section, known in (("step", _STEP), ("fragment", _FRAGMENT)):
        held = {c.name: (c.dtype, c.row) for c in schema if c.section == section}
        if held != {name: (dtype, ()) for name, dtype in known.items()}:
            raise CodecError(f"block: its {section} columns are {held}, not {known}")


def _check(counts: _Counts, table: Iterable[tuple[_Column, Array]], block: Episodes) -> None:
    """What must hold between columns that are each well formed."""
    if counts.total > MAX_BYTES:
        raise CodecError(f"block: {counts.total} bytes, at most {MAX_BYTES} travel")
    if counts.resume > MAX_RESUME:
        raise CodecError(f"block: {counts.resume} bytes to resume from, at most {MAX_RESUME}")
    for column, array in table:
        if column.section == _CONTEXT:
            if column.row:
                raise CodecError(f"block: column {column.name} is context and not flat")
        elif array.shape[0] != counts.rows(column.section):
            raise CodecError(
                f"block: column {column.name} has {array.shape[0]} rows for {counts.rows(column.section)}"
            )
    if PROMPT in block.about:
        _check_prompts(block)
    if not block.fragments:
        if block.steps:
            raise CodecError(f"block: it has {block.steps} steps in no fragment")
        return
    # The ufuncs themselves: the methods around them cost more than small arrays do.
    if (shortest := int(np.minimum.reduce(block.length))) < 1:
        raise CodecError(f"block: a fragment has {shortest} steps")
    if (held := int(np.add.reduce(block.length, dtype=np.int64))) != block.steps:
        raise CodecError(f"block: its fragments hold {held} steps, it has {block.steps}")
    if (ending := int(np.maximum.reduce(block.ending))) > _LAST_ENDING:
        raise CodecError(f"block: unknown ending {ending}")


def _check_prompts(block: Episodes) -> None:
    """Whether the prompts that fragments speak of are there."""
    prompt, token = block.about[PROMPT], block.context.get(TOKEN)
    if prompt.shape[1:] != (2,) or prompt.dtype != np.int32 or token is None:
        raise CodecError("block: its prompts are no int32 ranges of the tokens in its context")
    if not len(prompt):
        return
    start, end = prompt.T
    if start.min() < 0 or end.max() > len(token) or (end - start).min() < 1:
        raise CodecError(f"block: a prompt is not within the {len(token)} tokens of its context")


def _sizes(table: Iterable[tuple[_Column, Array]]) -> bytes:
    sizes = [len(array) for column, array in table if column.section == _CONTEXT]
    return struct.pack(f"<{len(sizes)}Q", *sizes)


def _read_sizes(view: memoryview, schema: _Schema) -> list[int]:
    count = sum(column.section == _CONTEXT for column in schema)
    if 8 * count > len(view):
        raise CodecError(f"block: {len(view)} bytes are left for the sizes of {count} columns")
    sizes = list(struct.unpack_from(f"<{count}Q", view))
    if any(size > MAX_BYTES for size in sizes):
        raise CodecError(f"block: its context has {max(sizes)} rows")
    return sizes


def _table(block: Episodes) -> list[tuple[_Column, Array]]:
    """Every column in the order in which it is written."""
    sections: Iterable[tuple[str, Columns]] = (
        ("observation", block.observation),
        ("action", block.action),
        ("step", {name: getattr(block, name) for name in _STEP}),
        ("fragment", {name: getattr(block, name) for name in _FRAGMENT}),
        ("final", block.final),
        ("initial", block.initial),
        (_CONTEXT, block.context),
        ("about", block.about),
    )
    table = [
        (_Column(section, name, _little_endian(array.dtype), array.shape[1:]), array)
        for section, columns in sections
        for name, array in columns.items()
    ]
    for column, array in table:
        if not array.ndim:
            raise CodecError(f"block: column {column.name} is a single value")
    return table


_D = TypeVar("_D", bound=np.generic)


@lru_cache(maxsize=64)
def _little_endian(dtype: "np.dtype[_D]") -> str:
    return dtype.newbyteorder("<").str


@lru_cache(maxsize=256)
def _row_bytes(column: _Column) -> int:
    return math.prod(column.row) * np.dtype(column.dtype).itemsize
