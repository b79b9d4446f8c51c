"""The learner's local queue: blocks from the store go in, batches of exactly B rows come out.

Blocks are split between batches at any row, so what an algorithm computes over whole fragments is
computed before a block goes in (`Algorithm.credit`). The ring knows how far every block is
consumed: its `position` says what a restarted learner must skip so that, in one history of
weights, each row is trained on once.
"""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from troupe.checkpoint import Position
from troupe.episodes import Columns


@dataclass(slots=True, eq=False)
class _Held:
    """What is left of a block."""

    id: str
    columns: Columns
    rows: int
    """Of the whole block."""
    oldest: int
    """The oldest version of the weights that acted in it."""
    used: int = 0


class Ring:
    """One queue of blocks for each policy, in the order of the store. Safe to share between threads.

    Args:
        policies: whose blocks are expected.
        batch: B, rows of a batch.
        position: where a checkpoint was in the stream; blocks come from behind `position.after`.
    """

    def __init__(self, policies: Iterable[str], batch: int, position: Position) -> None:
        self._batch = batch
        self._queues: dict[str, deque[_Held]] = {policy: deque() for policy in policies}
        self._changed = threading.Condition()
        self._restart(position)

    def restart(self, position: Position) -> None:
        """Forget every block: the stream begins anew at `position`."""
        with self._changed:
            self._restart(position)

    def put(self, id: str, policy: str, oldest: int, columns: Columns) -> int:  # noqa: A002
        """Append the next block of the stream; returns how many of its rows had been consumed before.

        Raises:
            KeyError: the policy is not expected here.
        """
        with self._changed:
            queue = self._queues[policy]
            rows = len(next(iter(columns.values())))
            used = min(self._done.pop(id, 0), rows)
            self._order.append((id, rows))
            self._used[id] = used
            if used < rows:
                queue.append(_Held(id, columns, rows, oldest, used))
                self._rows[policy] += rows - used
            self._advance()
            self._changed.notify_all()
            return used

    def ready(self, timeout: float) -> str | None:
        """The policy with the most rows among those with a full batch, waited for up to `timeout` s."""
        with self._changed:
            self._changed.wait_for(lambda: self._fullest() is not None, timeout)
            return self._fullest()

    def wake(self) -> None:
        """End a wait in `ready` early."""
        with self._changed:
            self._changed.notify_all()

    def drop(self, policy: str, older_than: int) -> int:
        """Discard the blocks of a policy whose oldest version is below this; returns their rows."""
        with self._changed:
            before = self._rows[policy]
            for held in [held for held in self._queues[policy] if held.oldest < older_than]:
                self._queues[policy].remove(held)
                self._consume(policy, held, held.rows - held.used)
            return before - self._rows[policy]

    def take(self, policy: str) -> Columns:
        """The next B rows of a policy, by column. From here on they count as trained on.

        Raises:
            ValueError: fewer than B are there.
        """
        with self._changed:
            if self._rows[policy] < self._batch:
                raise ValueError(f"{policy}: {self._rows[policy]} rows of {self._batch} are here")
            parts: list[tuple[Columns, slice]] = []
            missing = self._batch
            while missing:
                held = self._queues[policy][0]
                count = min(missing, held.rows - held.used)
                parts.append((held.columns, slice(held.used, held.used + count)))
                self._consume(policy, held, count)
                missing -= count
                if held.used == held.rows:
                    self._queues[policy].popleft()
        names = parts[0][0]
        return {
            name: np.concatenate([columns[name][rows] for columns, rows in parts]) for name in names
        }

    @property
    def position(self) -> Position:
        """What is consumed, for a checkpoint that is taken now."""
        with self._changed:
            rows = {id_: used for id_, used in self._used.items() if used} | self._done
            return Position(generation=self._generation, after=self._after, rows=rows)

    def _restart(self, position: Position) -> None:
        self._generation = position.generation
        self._after = position.after
        self._done = dict(position.rows)
        """Rows consumed before the restart, of blocks that have not come again yet."""
        self._order: deque[tuple[str, int]] = deque()
        """Blocks behind `after` that have come, and their rows."""
        self._used: dict[str, int] = {}
        """Rows consumed, of the blocks in `_order`."""
        self._rows = dict.fromkeys(self._queues, 0)
        for queue in self._queues.values():
            queue.clear()

    def _consume(self, policy: str, held: _Held, count: int) -> None:
        held.used += count
        self._rows[policy] -= count
        if held.id in self._used:
            self._used[held.id] = held.used
        self._advance()

    def _advance(self) -> None:
        """Move `after` over every block that is wholly consumed."""
        while self._order and self._used[self._order[0][0]] == self._order[0][1]:
            self._after, _ = self._order.popleft()
            del self._used[self._after]

    def _fullest(self) -> str | None:
        policy = max(self._rows, key=self._rows.__getitem__)
        return policy if self._rows[policy] >= self._batch else None
