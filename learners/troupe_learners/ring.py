"""The learner's local queue where both sides run freely: blocks go in, batches come out.

Batches are of whole blocks, or of exactly so many steps: then blocks are divided between batches
at any step, so what an algorithm computes over whole fragments is computed before a block goes in
(`Algorithm.credit`). The ring knows how far every block is consumed: its `position` says what a
restarted learner must skip so that, in one history of weights, each step is counted once.
"""

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np

from troupe.checkpoint import Position
from troupe.episodes import Columns
from troupe.store.replay import Taken
from troupe_learners.batches import Piece
from troupe_learners.ledger import Ledger


class Ring:
    """One queue of blocks for each policy, in the order of the store. A `Feed`.

    Args:
        policies: whose blocks are expected.
        batch: B, steps of a batch.
        position: where a checkpoint was in the stream; blocks come from behind `position.after`.
        whole: batches are of whole blocks, of B steps or a few more.
        grouped: B counts groups, of whole blocks, rather than steps.
        retained_bytes: of blocks that are kept in the store after they were consumed, to fill a
            replay memory again; such blocks are given out once more after a restart.
    """

    def __init__(
        self,
        policies: Iterable[str],
        batch: int,
        position: Position,
        *,
        whole: bool = False,
        grouped: bool = False,
        retained_bytes: int = 0,
    ) -> None:
        self._batch = batch
        self._whole = whole or grouped
        self._grouped = grouped
        self._retained_bytes = retained_bytes
        self._queues: dict[str, deque[Piece]] = {policy: deque() for policy in policies}
        """What is left of each block."""
        self._changed = threading.Condition()
        self._restart(position)

    def restart(self, position: Position) -> None:
        """See `Feed`."""
        with self._changed:
            self._restart(position)

    def put(self, taken: Taken, credit: Columns) -> int:
        """See `Feed`."""
        block = taken.block
        with self._changed:
            used = self._ledger.arrive(taken.id, block.steps, taken.bytes)
            again = self._retained_bytes > 0 and used == block.steps
            if used < block.steps or again:
                rows = None if self._whole else slice(used, block.steps)
                piece = Piece(block, credit, rows, taken.id, fresh=not again)
                self._queues[block.policy].append(piece)
                self._held[block.policy] += 0 if again else self._size(piece)
            self._changed.notify_all()
            return used

    def ready(self, timeout: float) -> tuple[str, ...]:
        """The policies with a full batch, the one with the most steps first, see `Feed`."""
        with self._changed:
            self._changed.wait_for(lambda: self._full(), timeout)
            return self._full()

    def wake(self) -> None:
        """See `Feed`."""
        with self._changed:
            self._changed.notify_all()

    def drop(self, policy: str, older_than: int) -> list[Piece]:
        """See `Feed`."""
        with self._changed:
            stale = [piece for piece in self._queues[policy] if piece.block.oldest < older_than]
            for piece in stale:
                self._queues[policy].remove(piece)
                self._consume(piece)
            return stale

    def take(self, policy: str) -> list[Piece]:
        """See `Feed`."""
        with self._changed:
            queue = self._queues[policy]
            if self._held[policy] < self._batch:
                what = "groups" if self._grouped else "steps"
                raise ValueError(f"{policy}: {self._held[policy]} {what} of {self._batch} are here")
            pieces: list[Piece] = []
            missing = self._batch
            while missing > 0:
                piece = queue.popleft()
                if piece.rows is not None and piece.steps > missing:
                    middle = piece.rows.start + missing
                    queue.appendleft(piece._replace(rows=slice(middle, piece.rows.stop)))
                    piece = piece._replace(rows=slice(piece.rows.start, middle))
                pieces.append(piece)
                if piece.fresh:
                    self._consume(piece)
                    missing -= self._size(piece)
            return pieces

    def position(self, needed: Iterable[str] = ()) -> Position:
        """See `Feed`."""
        with self._changed:
            return self._ledger.position(needed)

    def _restart(self, position: Position) -> None:
        self._ledger = Ledger(position, self._retained_bytes)
        self._held = dict.fromkeys(self._queues, 0)
        """By policy: steps, or groups, that are yet to be learned from."""
        for queue in self._queues.values():
            queue.clear()

    def _consume(self, piece: Piece) -> None:
        self._held[piece.block.policy] -= self._size(piece)
        self._ledger.consume(piece.id, piece.steps)

    def _size(self, piece: Piece) -> int:
        """What a piece counts of a batch."""
        return len(np.unique(piece.block.group)) if self._grouped else piece.steps

    def _full(self) -> tuple[str, ...]:
        full = [policy for policy, held in self._held.items() if held >= self._batch]
        return tuple(sorted(full, key=self._held.__getitem__, reverse=True))
