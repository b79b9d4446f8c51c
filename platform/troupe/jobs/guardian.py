"""The process that ends a run's processes once the launcher is gone, however it went.

It holds one end of a pipe whose other end only the launcher has. When the launcher ends, by itself
or by kill -9, the pipe closes. Then every process that carries the run's mark in its environment is
killed with all that came of it, and the run's temporary folders are deleted. There is no other way
of cleaning up.

A process that gives itself a title, as Ray's do, may write over its mark. So the guardian looks
while the run is running, and remembers who descends from whom.
"""

import select
import shutil
import signal
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
LOOK_SECONDS = 2.0


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
    return [
        process for process in psutil.process_iter() if environment_of(process).get(MARK) == mark
    ]


def environment_of(process: psutil.Process) -> Mapping[str, str]:
    """What a process was started with; nothing where that cannot be read."""
    try:
        return process.environ()
    except psutil.Error:  # gone meanwhile, or another user's
        return {}


class Herd:
    """All processes that a run has started and that are still alive."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._known: set[psutil.Process] = set()

    def look(self) -> set[psutil.Process]:
        """Find those that carry the mark, and whatever descends from one that did."""
        found: set[psutil.Process] = set()
        for process in sorted(self._known.union(marked(self._mark)), key=lambda one: one.pid):
            if process in found:
                continue
            found.add(process)
            try:
                found.update(process.children(recursive=True))
            except psutil.NoSuchProcess:
                continue
        self._known = {process for process in found if _lives(process)}
        return self._known

    def end(self) -> None:
        """Kill all of them until none is left; gives up on what cannot be killed.

        None is left when two looks in a row find none: what is just being started shows no
        environment for a moment.
        """
        deadline = time.monotonic() + PATIENCE
        empty = 0
        while empty < 2 and time.monotonic() < deadline:
            left = self.look()
            empty = 0 if left else empty + 1
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    """Whether there is still something to kill: a zombie is its parent's to clear away."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    """Wait for the launcher's end, then clean up."""
    # Ray ends a job by a signal to each process of it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mark, *folders = sys.argv[1:]
    herd = Herd(mark)
    while not select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
        herd.look()
    orderly = sys.stdin.buffer.read() == ORDERLY
    herd.end()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    if not orderly and sys.stdout.isatty():
        print(LEAVE_SCREEN, end="", flush=True)


if __name__ == "__main__":
    main()
