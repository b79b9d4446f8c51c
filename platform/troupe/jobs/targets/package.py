"""What a job brings along, as one archive that is the same for the same files."""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from troupe.errors import UserError

MAX_BYTES = 100 * 1024 * 1024
"""Ray takes no more; what is larger belongs on the shared folder."""
_WHEN = (1980, 1, 1, 0, 0, 0)


def pack(files: Mapping[str, bytes], extras: Sequence[Path]) -> bytes:
    """A zip archive of files by name, and of files and folders as they are called on disk.

    Raises:
        UserError: one cannot be read, or all of them are too large.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*files.items(), *_found(extras)]:
            archive.writestr(zipfile.ZipInfo(name, _WHEN), data, zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    if len(data) > MAX_BYTES:
        raise UserError(
            f"--with: {len(data) / 2**20:,.0f} MiB are too much to send along, at most "
            f"{MAX_BYTES / 2**20:.0f}; put large files onto the folder that the nodes share"
        )
    return data


def name(data: bytes) -> str:
    """What Ray calls an archive: what it holds decides."""
    return f"_ray_pkg_{hashlib.sha256(data).hexdigest()[:32]}.zip"


def _found(extras: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    for extra in extras:
        inside = [extra] if extra.is_file() else sorted(p for p in extra.rglob("*") if p.is_file())
        try:
            for path in inside:
                if "__pycache__" not in path.parts:
                    yield str(path.relative_to(extra.parent)), path.read_bytes()
        except OSError as error:
            raise UserError(f"--with: {path}: cannot be read: {error.strerror}") from None
        if not inside:
            raise UserError(f"--with: {extra}: there is no such file or folder, or nothing in it")
