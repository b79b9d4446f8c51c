"""How far the stream of blocks is trained on: what a learner that starts again must skip."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from troupe.checkpoint import Position


class _Entry(NamedTuple):
    id: str
    steps: int
    bytes: int


class Ledger:
    """Blocks in the order of the store, and how much of each is trained on.

    Args:
        position: where a checkpoint was; blocks come from behind `position.after`.
        retained_bytes: of trained blocks that are kept for being needed again.
    """

    def __init__(self, position: Position, retained_bytes: int = 0) -> None:
        self._generation = position.generation
        self._after = position.after
        self._done = dict(position.rows)
        """Steps trained on before the restart, of blocks that have not come again yet."""
        self._entries: deque[_Entry] = deque()
        """Blocks behind `after` that have come."""
        self._used: dict[str, int] = {}
        """Steps trained on, of the blocks in `_entries`."""
        self._bytes = 0
        self._retained_bytes = retained_bytes

    @property
    def after(self) -> str:
        """The block behind which the stream is to be read."""
        return self._after

    def arrive(self, id: str, steps: int, bytes: int) -> int:  # noqa: A002
        """The next block of the stream; how many of its steps were trained on before."""
        used = min(self._done.pop(id, 0), steps)
        self._entries.append(_Entry(id, steps, bytes))
        self._used[id] = used
        self._bytes += bytes
        return used

    def consume(self, id: str, steps: int) -> None:  # noqa: A002
        """So many more steps of a block that has arrived are trained on, or dropped."""
        self._used[id] += steps

    def position(self, needed: Iterable[str] = ()) -> Position:
        """What is trained on, for a checkpoint that is taken now.

        Args:
            needed: from the oldest of these blocks on, all are to be read again after a restart,
                although they are trained on; only the newest of them where those are too many bytes.
        """
        oldest = min(map(_order, needed), default=None)
        while self._entries:
            first = self._entries[0]
            needs = oldest is not None and _order(first.id) >= oldest
            if needs and self._bytes <= self._retained_bytes:
                break
            if self._used[first.id] < first.steps:
                break
            self._entries.popleft()
            self._after = first.id
            self._bytes -= first.bytes
            del self._used[first.id]
        rows = {id_: used for id_, used in self._used.items() if used} | self._done
        return Position(generation=self._generation, after=self._after, rows=rows)


def _order(id_: str) -> tuple[int, int]:
    """Ids of the store in the order of the stream."""
    milliseconds, number = id_.split("-")
    return int(milliseconds), int(number)
