"""The process that ends a run's processes once the launcher is gone, however it went.

It holds one end of a pipe whose other end only the launcher has. When the launcher ends, by itself
or by kill -9, the pipe closes. Then every process that carries the run's mark in its environment is
killed, and the run's temporary folders are deleted. There is no other way of cleaning up.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

MARK = "TROUPE_GUARD"
ORDERLY = b"orderly"
LEAVE_SCREEN = "\x1b[?1049l\x1b[?25h\x1b[0m"
"""What a terminal needs when a full-screen program is gone without a word."""
PATIENCE = 5.0


class Guardian:
    """The launcher's handle on its guardian."""

    def __init__(self, mark: str, folders: list[Path]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, mark, *map(str, folders)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def finish(self) -> None:
        """End all that carries the mark and delete the folders; returns when that is done."""
        self._process.communicate(ORDERLY)


def marked(mark: str) -> list[psutil.Process]:
    """The living processes that were started with this mark in their environment."""
    return [process for process in psutil.process_iter() if _environment(process).get(MARK) == mark]


def _environment(process: psutil.Process) -> Mapping[str, str]:
    try:
        return process.environ()
    except psutil.Error:  # gone meanwhile, or another user's
        return {}


def end(mark: str) -> None:
    """Kill what carries the mark until nothing does; gives up on what cannot be killed."""
    deadline = time.monotonic() + PATIENCE
    while (left := marked(mark)) and time.monotonic() < deadline:
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=1.0)


def main() -> None:
    """Wait for the launcher's end, then clean up."""
    mark, *folders = sys.argv[1:]
    orderly = sys.stdin.buffer.read() == ORDERLY
    end(mark)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    if not orderly and sys.stdout.isatty():
        print(LEAVE_SCREEN, end="", flush=True)


if __name__ == "__main__":
    main()
