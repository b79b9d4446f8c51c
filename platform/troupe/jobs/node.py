"""A run's folder on one node of a cluster: its workers share it, and it is gone when the last of them is.

Each worker holds a lock on it for as long as its process lives. A small process, which is nobody's
child, waits until that lock is free, and deletes the folder. Run as a script, this is that process.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEMORY = Path("/dev/shm")
MIN_MEMORY_BYTES = 512 * 1024 * 1024
"""Several versions of all weights lie there at once; a container has 64 MiB unless told otherwise."""
_USERS, _SWEEPER = ".users", ".sweeper"
_LOOK_SECONDS = 1.0
_held: list[int] = []
"""Locks of this process."""


def memory() -> Path | None:
    """Where files lie in memory, if there is room."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MIN_MEMORY_BYTES
    return MEMORY if roomy and os.access(MEMORY, os.W_OK) else None


def hold(name: str) -> Path:
    """The folder of that name, which only we can enter, for as long as this process lives.

    Raises:
        OSError: it cannot be made, or is somebody else's.
    """
    folder = (memory() or Path(tempfile.gettempdir())) / name
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise PermissionError(f"{folder} is another user's")
        lock = os.open(folder / _USERS, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_at(lock, folder / _USERS):
            break
        os.close(lock)  # it was just being deleted
    _held.append(lock)
    command = [sys.executable, "-I", "-S", __file__, str(folder)]
    subprocess.run(command, stdin=subprocess.DEVNULL, start_new_session=True, check=True)
    return folder


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(path: Path) -> int | None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def main() -> None:
    """Delete the folder once nobody holds it any more."""
    folder = Path(sys.argv[1])
    if os.fork():
        return  # whoever ends its children at its own end does not find this one
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    if _try_lock(folder / _SWEEPER) is None:
        return
    while _try_lock(folder / _USERS) is None:
        time.sleep(_LOOK_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
