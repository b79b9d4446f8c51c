"""A run's numbers on disk: `metrics.jsonl`, one flat JSON object a line, and TensorBoard's events."""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

from troupe.frame import Frame
from troupe.runs import RunFolder, writing
from troupe.tensorboard import EventWriter

Line: TypeAlias = dict[str, float]
TAIL = 64 * 1024


class Journal:
    """Appends to a run's numbers; a resumed run goes on where the file ends.

    Raises:
        UserError, RunFolderError: a file cannot be written.
    """

    def __init__(self, folder: RunFolder, time: float) -> None:
        self._path = folder.metrics
        self._step = math.inf
        with ExitStack() as stack, writing(folder.metrics):
            self.last = last_line(folder.metrics)
            """What an earlier attempt wrote last."""
            self._lines = stack.enter_context(folder.metrics.open("ab", buffering=0))
            self._torn = _torn(folder.metrics)
            """Whether the newest line was cut short."""
            folder.tensorboard.mkdir(exist_ok=True)
            self._events = EventWriter(folder.tensorboard, time)
            stack.pop_all()

    def write(self, frame: Frame) -> None:
        """Add one line, and the same numbers to TensorBoard."""
        scalars = frame.scalars()
        line: Line = {"time": round(frame.time, 3), "step": frame.step, "attempt": frame.attempt}
        line |= {name: _brief(value) for name, value in scalars.items() if math.isfinite(value)}
        data = json.dumps(line).encode() + b"\n"
        with writing(self._path):
            if self._lines.write(b"\n" * self._torn + data) < len(data):
                self._torn = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._torn = False
            if frame.step < self._step:  # also a learner that fell back to its last checkpoint
                self._events.restart(frame.step, frame.time)
            self._events.scalars(scalars, frame.step, frame.time)
        self._step = frame.step

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        self._events.close()


def read(path: Path) -> list[Line]:
    """The lines of a metrics.jsonl by rising step.

    Where training fell back to a checkpoint, the lines of the work that was lost are left out. So
    are lines that a crash has torn.
    """
    lines: list[Line] = []
    if not path.exists():
        return lines
    for line in _sound_lines(path.read_bytes()):
        while lines and lines[-1]["step"] >= line["step"]:
            lines.pop()
        lines.append(line)
    return lines


def last_line(path: Path) -> Line:
    """The newest sound line, empty where there is none."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return next(reversed([*_sound_lines(file.read())]), {})


def _sound_lines(data: bytes) -> Iterator[Line]:
    for text in data.splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            yield line


def _brief(value: float) -> float:
    """Counts whole, all else to six digits."""
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")


def _torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
