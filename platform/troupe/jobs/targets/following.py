"""Follows what a run says, whatever becomes of the connection."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from troupe.jobs.targets import RunState, Target, TargetError

LOOK_SECONDS = 2.0
"""Between two looks at how the run stands."""
AGAIN_SECONDS = 1.0
"""Before the next connection."""
_SAID = re.compile(r"^\s*[\d:]+  (?P<worker>(?P<role>[a-z]+)-\d+) \| (?P<text>.*)$")


@dataclass(frozen=True, slots=True)
class Said:
    """One line."""

    worker: str
    """Whose; empty is the launcher."""
    text: str

    @property
    def role(self) -> str:
        """Of the worker; empty is the launcher."""
        return self.worker.rpartition("-")[0]


class Lines:
    """Whole lines out of pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Said]:
        """Take a piece; the lines that are whole now."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            text = line.decode(errors="replace")
            found = _SAID.match(text)
            yield Said(found["worker"], found["text"]) if found else Said("", text)

    def end(self) -> Iterator[Said]:
        """What came without an end of line."""
        if self._rest:
            yield from self.feed(b"\n")


def listen(target: Target, run: str, hear: Callable[[Said], None]) -> None:
    """Hear all that was said since the beginning of the newest attempt.

    Raises:
        UserError: there is no such run.
        TargetError: the connection broke.
    """
    lines = Lines()
    for piece in target.log(run, 0):
        for said in lines.feed(piece):
            hear(said)
        if not piece:
            break
    for said in lines.end():
        hear(said)


def follow(target: Target, run: str, hear: Callable[[Said], None]) -> RunState:
    """Hear all that is said from the beginning of the newest attempt until the run is over.

    A connection that breaks is made again, and nothing is lost or heard twice: only the target
    itself says how the run stands.

    Raises:
        UserError: there is no such run, or no longer.
    """
    begin, lines, over, looked = 0, Lines(), False, 0.0
    state = target.state(run)
    while True:
        try:
            for piece in target.log(run, begin):
                begin += len(piece)
                for said in lines.feed(piece):
                    hear(said)
                if piece or time.monotonic() < looked + LOOK_SECONDS:
                    continue
                if over:
                    break
                state, looked = target.state(run), time.monotonic()
                over = state.over
            if over:
                for said in lines.end():
                    hear(said)
                return state
            now = target.state(run)
            if now.attempt != state.attempt:
                begin, lines = 0, Lines()
            state, over = now, now.over
        except TargetError:
            over = False  # what is said meanwhile is still to be heard
        time.sleep(AGAIN_SECONDS)
