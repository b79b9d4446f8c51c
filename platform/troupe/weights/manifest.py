"""Manifests: what a version of weights holds, and where in its payload."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import xxhash

from troupe.codec import DTYPES
from troupe.episodes import Array
from troupe.weights.errors import DamagedError, InvalidError, NoRoomError
from troupe.wire.weights_pb2 import RAW, Manifest, Part, Tensor

BFLOAT16 = "bfloat16"
MAX_TENSORS = 65_536
MAX_PARTS = 4096
CARRY = 256 * 1024
"""Versions of at most this many bytes travel with the notice of them."""

_ALIGN = 64
_ZEROS = bytes(_ALIGN)
_POLICY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)


class Key(NamedTuple):
    """Which version of a policy: a later attempt supersedes an earlier one, whatever their versions."""

    attempt: int
    version: int

    def __str__(self) -> str:
        return f"version {self.version} of attempt {self.attempt}"


class Payload(NamedTuple):
    """Weights on their way out: their manifest, and their bytes in order, not copied."""

    manifest: Manifest
    buffers: list[memoryview]


def key_of(manifest: Manifest) -> Key:
    """Which version a manifest describes."""
    return Key(manifest.attempt, manifest.version)


def describe(
    policy: str,
    key: Key,
    tensors: Mapping[str, Array],
    *,
    publisher: str,
    bfloat16: Collection[str] = (),
) -> Payload:
    """Lay tensors out as one payload. Those named in `bfloat16` are uint16 arrays that hold its bits.

    Raises:
        InvalidError: a name or dtype cannot travel.
    """
    manifest = Manifest(policy=policy, attempt=key.attempt, version=key.version, encoding=RAW)
    buffers: list[memoryview] = []
    for name, tensor in tensors.items():
        # Not ascontiguousarray, which would turn a scalar into a vector.
        array = np.asarray(tensor, tensor.dtype.newbyteorder("<"), order="C")
        if name in bfloat16 and array.dtype != np.uint16:
            raise InvalidError(f"{policy}: {name} is {array.dtype}; bfloat16 travels as uint16")
        padding = -manifest.size % _ALIGN
        if array.nbytes:
            buffers += [memoryview(_ZEROS)[:padding], array.reshape(-1).view(np.uint8).data]
            manifest.size += padding
        manifest.tensors.append(
            Tensor(
                name=name,
                dtype=BFLOAT16 if name in bfloat16 else array.dtype.str,
                shape=array.shape,
                offset=manifest.size if array.nbytes else 0,
            )
        )
        manifest.size += array.nbytes
    hasher = xxhash.xxh3_64()
    for buffer in buffers:
        hasher.update(buffer)
    manifest.parts.append(
        Part(offset=0, size=manifest.size, publisher=publisher, checksum=hasher.intdigest())
    )
    check(manifest, manifest.size)
    return Payload(manifest, buffers)


def check(manifest: Manifest, max_bytes: int) -> None:
    """Believe a manifest only if it is whole and within bounds: run before any memory is taken.

    Raises:
        InvalidError: it contradicts itself.
        NoRoomError: its payload has more than `max_bytes`.
    """
    check_policy(manifest.policy)
    about = f"{manifest.policy} version {manifest.version}"
    if manifest.encoding != RAW:
        raise InvalidError(f"{about}: encoding {manifest.encoding} is not known here")
    if len(manifest.tensors) > MAX_TENSORS or len(manifest.parts) > MAX_PARTS:
        raise InvalidError(
            f"{about}: {len(manifest.tensors)} tensors in {len(manifest.parts)} parts are too many"
        )
    if manifest.size > max_bytes:
        raise NoRoomError(f"{about}: {manifest.size} bytes, at most {max_bytes} are accepted")
    end = 0
    for part in manifest.parts:
        if part.offset != end:
            raise InvalidError(f"{about}: a part starts at byte {part.offset}, not at {end}")
        end += part.size
    if end != manifest.size:
        raise InvalidError(f"{about}: its parts cover {end} bytes of {manifest.size}")
    _check_tensors(manifest, about)


def check_policy(policy: str) -> None:
    """Raises InvalidError unless `policy` is fit to name a folder."""
    if not _POLICY.fullmatch(policy):
        raise InvalidError(f"policy {policy[:128]!r}: use letters, digits, '-', '_' and '.'")


def tensors_of(manifest: Manifest, buffer: memoryview) -> dict[str, Array]:
    """The tensors of a checked manifest, as views of its payload."""
    return {
        tensor.name: np.frombuffer(
            buffer, _dtype(tensor), math.prod(tensor.shape), tensor.offset
        ).reshape(tensor.shape)
        for tensor in manifest.tensors
    }


def bfloat16_of(manifest: Manifest) -> frozenset[str]:
    """Names of the tensors whose uint16 elements are the bits of bfloat16 numbers."""
    return frozenset(tensor.name for tensor in manifest.tensors if tensor.dtype == BFLOAT16)


def verify(manifest: Manifest, payload: memoryview) -> None:
    """Raises DamagedError unless a checked manifest's payload is whole and matches its checksums."""
    about = f"weights: {manifest.policy} version {manifest.version}"
    if payload.nbytes != manifest.size:
        raise DamagedError(f"{about}: {payload.nbytes} bytes arrived, not {manifest.size}")
    for offset, size, checksum in checksums(manifest):
        if xxhash.xxh3_64_intdigest(payload[offset : offset + size]) != checksum:
            raise DamagedError(f"{about}: its checksum does not match")


def checksums(manifest: Manifest) -> Iterator[tuple[int, int, int]]:
    """(offset, size, XXH3) of each part that has bytes."""
    for part in manifest.parts:
        if part.size:
            yield part.offset, part.size, part.checksum


def _check_tensors(manifest: Manifest, about: str) -> None:
    end = 0
    if len({tensor.name for tensor in manifest.tensors}) != len(manifest.tensors):
        raise InvalidError(f"{about}: a tensor is named twice")
    for tensor in manifest.tensors:
        if tensor.dtype != BFLOAT16 and tensor.dtype not in DTYPES:
            raise InvalidError(
                f"{about}: {tensor.name} has dtype {tensor.dtype!r}, which cannot travel"
            )
        size = math.prod(tensor.shape) * _dtype(tensor).itemsize
        if len(tensor.shape) > 16 or size > manifest.size:
            raise InvalidError(f"{about}: {tensor.name} of shape {list(tensor.shape)} does not fit")
        if not size:
            continue
        if tensor.offset % _ALIGN or tensor.offset < end or tensor.offset + size > manifest.size:
            raise InvalidError(f"{about}: {tensor.name} cannot start at byte {tensor.offset}")
        end = tensor.offset + size


def _dtype(tensor: Tensor) -> np.dtype[np.generic]:
    return np.dtype("<u2" if tensor.dtype == BFLOAT16 else tensor.dtype)
