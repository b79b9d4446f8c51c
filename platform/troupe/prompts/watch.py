"""How many prompts there are of each kind, from the file that a run keeps of them."""

import os
from pathlib import Path

from troupe.errors import UserError
from troupe.frame import Prompts
from troupe.prompts.record import FILE
from troupe.prompts.show import read
from troupe.runs import RunFolder


class PromptWatch:
    """Looks at a run's `prompts.json`, and reads it only where it is new."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._file: Path = folder.path / FILE
        self._seen: os.stat_result | None = None
        self._prompts: Prompts | None = None

    def look(self) -> Prompts | None:
        """As they stood a moment ago; None where nobody has written of any."""
        try:
            found = self._file.stat()
        except OSError:
            return self._prompts
        if self._seen is None or found.st_mtime_ns != self._seen.st_mtime_ns:
            self._seen = found
            self._prompts = self._read()
        return self._prompts

    def _read(self) -> Prompts | None:
        try:
            record = read(self._folder)
        except UserError:  # `troupe prompts` tells what is wrong with it
            return self._prompts
        return Prompts(
            ready=record.ready,
            leased=len(record.leased),
            done=record.done,
            dropped=sum(record.dropped.values()),
            dead=record.dead_count,
        )
