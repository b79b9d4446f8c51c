"""What the workers of a run wrote into their logs since somebody looked last."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

EVERY = 2.0
"""Seconds between two looks at the folder, which may be on another machine."""
_AT_ONCE = 64 * 1024
"""Bytes of one worker that are told at once; of more, the newest."""


class Tails:
    """Follows every log in a folder, from where each of them ends now, or from its beginning."""

    def __init__(self, folder: Path, *, whole: bool = False) -> None:
        self._folder = folder
        self._told = {} if whole else {log: log.stat().st_size for log in folder.glob("*.log")}
        self._most = sys.maxsize if whole else _AT_ONCE
        self._due = 0.0

    def poll(self) -> Iterator[tuple[str, str]]:
        """The new whole lines, each with its worker's name; none where it is too early to look."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY
        for log in sorted(self._folder.glob("*.log")):
            for line in self._news(log):
                yield log.stem, line

    def _news(self, log: Path) -> list[str]:
        told, size = self._told.get(log, 0), log.stat().st_size
        if size == told:
            return []
        begin = max(told, size - self._most)
        with log.open("rb") as file:
            file.seek(begin)
            data = file.read(size - begin)
        whole = data[: data.rfind(b"\n") + 1]
        self._told[log] = begin + len(whole)
        return whole.decode(errors="replace").splitlines()
