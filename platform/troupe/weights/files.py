"""Versions of weights as files: each complete, or not there.

    magic "TRPW" | format u16 | zero u16 | manifest bytes u32 | zero u32 | checksum of the manifest u64
    manifest     | a serialised `Manifest`
    payload      | starts at a multiple of 4096

A file is written aside and renamed once its checksums are verified. Readers map it, so that one
copy in memory serves every process of a node, and a file that is removed stays readable for those
who have mapped it.

Fresh memory costs more than all else on the way of a version (the kernel clears each page), so the
newest file that is removed stays as a spare for the next version to be written into. Whoever maps a
file holds a shared lock on it, and only a spare that can be locked exclusively is used.
"""

import errno
import fcntl
import mmap
import os
import re
import shutil
import struct
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import xxhash
from google.protobuf.message import DecodeError

from troupe.episodes import Array
from troupe.weights.errors import DamagedError, InvalidError, MissingError, NoRoomError
from troupe.weights.framing import MAX_MESSAGE, Chunk
from troupe.weights.manifest import Key, check, check_policy, checksums, key_of, tensors_of
from troupe.wire.weights_pb2 import Manifest

MAGIC = b"TRPW"
FORMAT = 1
SUFFIX = ".weights"
ASIDE = ".aside"
SPARE = "spare"

_PREFIX = struct.Struct("<4sHHIIQ")
_PAGE = 4096
_NAME = re.compile(rf"(\d+)-(\d+){re.escape(SUFFIX)}", re.ASCII)


class Stored:
    """A version in a file, mapped read-only. Its tensors outlive this object and the file's name."""

    def __init__(self, path: Path) -> None:
        """Map `path` and check its manifest; `verify` checks the payload.

        Raises:
            DamagedError: the file is cut short, damaged, or not a file of weights.
            MissingError: it is not there, or is being written over.
        """
        self.path = path
        with _open_shared(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size < _PREFIX.size:
                raise DamagedError(f"{path}: cut short after {size} bytes; delete it")
            self._view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.manifest = self._read_manifest()
        self.key = key_of(self.manifest)
        start = _payload_start(self.manifest.ByteSize())
        if size != start + self.manifest.size:
            raise DamagedError(f"{path}: {size} bytes, not {start + self.manifest.size}; delete it")
        self.payload = self._view[start:]

    def tensors(self) -> dict[str, Array]:
        """The tensors by name, as read-only views of the mapped file."""
        return tensors_of(self.manifest, self.payload)

    def verify(self) -> None:
        """Raises DamagedError unless the payload matches its checksums."""
        for offset, size, checksum in checksums(self.manifest):
            if xxhash.xxh3_64_intdigest(self.payload[offset : offset + size]) != checksum:
                raise DamagedError(f"{self.path}: its checksum does not match; delete it")

    def _read_manifest(self) -> Manifest:
        magic, form, zero, size, zero_too, checksum = _PREFIX.unpack_from(self._view)
        if magic != MAGIC or zero or zero_too or size > MAX_MESSAGE:
            raise DamagedError(f"{self.path}: not a file of weights; delete it")
        if form != FORMAT:
            raise DamagedError(f"{self.path}: format {form}, this version reads format {FORMAT}")
        data = self._view[_PREFIX.size : _PREFIX.size + size]
        if data.nbytes != size or xxhash.xxh3_64_intdigest(data) != checksum:
            raise DamagedError(f"{self.path}: its manifest is damaged; delete it")
        try:
            manifest = Manifest.FromString(bytes(data))
            check(manifest, self._view.nbytes)
        except (DecodeError, InvalidError, NoRoomError) as error:
            raise DamagedError(f"{self.path}: {error}; delete it") from None
        return manifest


class Incoming:
    """A version on its way in, in a file set aside until it is complete.

    A context manager: what was not committed at its end is gone.
    """

    def __init__(self, manifest: Manifest, final: Path) -> None:
        self.manifest = manifest
        self._final = final
        self._start = _payload_start(manifest.ByteSize())
        self._position = 0
        self._parts = list(checksums(manifest))
        self._hasher = xxhash.xxh3_64()
        handle, name = tempfile.mkstemp(ASIDE, final.stem + ".", final.parent)
        self._aside = Path(name)
        self._file = _take_spare(final.parent / SPARE, self._aside, handle)

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)
        self._aside.unlink(missing_ok=True)

    def write(self, chunk: Chunk) -> None:
        """Take the next bytes of the payload.

        Raises:
            InvalidError: they do not follow what came before, or go past the end.
            DamagedError: a part is complete and its checksum does not match.
            NoRoomError: the folder is full.
        """
        offset, data = chunk
        if offset != self._position or offset + data.nbytes > self.manifest.size:
            raise InvalidError(
                f"{self.manifest.policy}: {data.nbytes} bytes at {offset} after "
                f"{self._position} of {self.manifest.size}"
            )
        self._position += data.nbytes
        self._put(data, self._start + offset)
        self._verify(data)

    def commit(self, *, durable: bool = False) -> Stored:
        """Make the version visible under its name; `durable` waits for the disk.

        Raises:
            InvalidError: bytes are missing.
        """
        if self._position != self.manifest.size:
            raise InvalidError(
                f"{self.manifest.policy}: {self._position} bytes of {self.manifest.size} arrived"
            )
        text = self.manifest.SerializeToString()
        checksum = xxhash.xxh3_64_intdigest(text)
        os.ftruncate(self._file, self._start + self.manifest.size)
        self._put(memoryview(_PREFIX.pack(MAGIC, FORMAT, 0, len(text), 0, checksum) + text), 0)
        if durable:
            os.fsync(self._file)
        fcntl.flock(self._file, fcntl.LOCK_SH)
        stored = Stored(self._aside)
        self._aside.rename(self._final)
        if durable:
            _sync_folder(self._final.parent)
        stored.path = self._final
        return stored

    def _verify(self, data: memoryview) -> None:
        """Hash the bytes before `_position` part by part: a chunk may span several."""
        while data.nbytes:
            offset, size, checksum = self._parts[0]
            left = offset + size - (self._position - data.nbytes)
            self._hasher.update(data[:left])
            if left <= data.nbytes:
                if self._hasher.intdigest() != checksum:
                    raise DamagedError(f"{self.manifest.policy}: damaged on the way")
                self._hasher.reset()
                self._parts.pop(0)
            data = data[left:]

    def _put(self, data: memoryview, at: int) -> None:
        # Not through a mapping: on a full file system that is a signal that kills the process.
        try:
            while data.nbytes:
                written = os.pwrite(self._file, data, at)
                data, at = data[written:], at + written
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoRoomError(
                f"{self._final.parent}: no room left for {self._final.name}"
            ) from None


class Shelf:
    """A folder with a folder for each policy, and in it a file for each version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def policies(self) -> list[str]:
        """Names of the policies that have a folder."""
        return sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir())

    def keys(self, policy: str) -> list[Key]:
        """The versions of a policy, oldest first."""
        folder = self._folder(policy)
        if not folder.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in folder.iterdir())
        return sorted(Key(int(match[1]), int(match[2])) for match in matches if match)

    def path(self, policy: str, key: Key) -> Path:
        """Where a version is, or would be."""
        return self._folder(policy) / f"{key.attempt}-{key.version}{SUFFIX}"

    def open(self, policy: str, key: Key) -> Stored:
        """Map a version.

        Raises:
            MissingError: it is not here.
            DamagedError: its file is not sound.
        """
        stored = Stored(self.path(policy, key))
        if (stored.manifest.policy, stored.key) != (policy, key):
            # It was opened just before it became a spare.
            raise MissingError(f"weights: no {key} of {policy} in {self.folder} any more")
        return stored

    def incoming(self, manifest: Manifest) -> Incoming:
        """Make room for a version whose manifest was checked.

        Raises:
            NoRoomError: the file system has less room left than it needs.
        """
        final = self.path(manifest.policy, key_of(manifest))
        final.parent.mkdir(mode=0o700, exist_ok=True)
        spare = final.parent / SPARE
        free = shutil.disk_usage(self.folder).free
        free += spare.stat().st_size if spare.exists() else 0
        if manifest.size > free:
            raise NoRoomError(
                f"{self.folder}: {manifest.policy} {key_of(manifest)} needs {manifest.size} bytes, "
                f"{free} are free"
            )
        return Incoming(manifest, final)

    def take(self, stored: Stored) -> None:
        """Copy a version here for good.

        Raises:
            DamagedError: the original does not match its checksums.
            NoRoomError: there is less room than it needs.
        """
        if not self.path(stored.manifest.policy, stored.key).exists():
            with self.incoming(stored.manifest) as incoming:
                incoming.write(Chunk(0, stored.payload))
                incoming.commit(durable=True)

    def keep(self, policy: str, newest: int, besides: Key | None = None) -> None:
        """Remove all versions but the `newest` ones and `besides`; the last removed is the spare."""
        for key in self.keys(policy)[:-newest]:
            if key != besides:
                self.path(policy, key).rename(self._folder(policy) / SPARE)

    def sweep(self, policy: str) -> None:
        """Remove what writers that died have set aside; nobody may be writing to this policy."""
        for path in self._folder(policy).glob(f"*{ASIDE}"):
            path.unlink(missing_ok=True)

    def _folder(self, policy: str) -> Path:
        check_policy(policy)
        return self.folder / policy


def _open_shared(path: Path) -> BinaryIO:
    """Open a file to map it. The lock lasts as long as the mapping, which has its own descriptor."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise MissingError(f"weights: {path} is not there") from None
    if not _lock(file.fileno(), fcntl.LOCK_SH):
        file.close()
        raise MissingError(f"weights: {path} is not there any more")
    return file


def _take_spare(spare: Path, aside: Path, handle: int) -> int:
    """Put the spare in the place of the empty file `aside`, if nobody has it mapped.

    Those who write versions of one policy take turns here: a node's lock, or the server's one
    thread, sees to that.

    Returns:
        A descriptor for what is now at `aside`, locked exclusively: `handle`, or one for the spare.
    """
    try:
        spare_handle = os.open(spare, os.O_RDWR)
    except FileNotFoundError:
        pass
    else:
        if _lock(spare_handle, fcntl.LOCK_EX):
            spare.rename(aside)
            os.close(handle)
            return spare_handle
        spare.unlink()
        os.close(spare_handle)
    _lock(handle, fcntl.LOCK_EX)
    return handle


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _payload_start(manifest_size: int) -> int:
    return -(-(_PREFIX.size + manifest_size) // _PAGE) * _PAGE
