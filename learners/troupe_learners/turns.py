"""Blocks in lockstep: a turn is learned from when the block of every actor and policy is there."""

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from troupe.checkpoint import Position
from troupe.episodes import Columns
from troupe.errors import TroupeError
from troupe.store.replay import Taken
from troupe_learners.batches import Piece


class Turns:
    """Gathers one turn after the other, in the order of actors whatever the order they came in. A `Feed`.

    A block that comes again, of an actor that died before it knew of its success, is the same to
    the bit, and is left out.

    Args:
        policies: all that are learning, in the order in which they are trained.
        actors: the slots of those whose blocks are learned from here, in order.
        turn: the first to be learned from.
        position: where a checkpoint was in the stream; blocks come from behind `position.after`.
    """

    def __init__(
        self, policies: Iterable[str], actors: Sequence[int], turn: int, position: Position
    ) -> None:
        self._policies = tuple(policies)
        self._actors = actors
        self._turn = turn
        self._changed = threading.Condition()
        self._held: dict[tuple[int, str], dict[int, Piece]] = {}
        """By turn and policy: the block of each actor."""
        self._waiting = list(self._policies)
        """Policies that are yet to take their part of this turn."""
        self.resume: Mapping[int, bytes] = {}
        """By actor: what it needs to play the turn behind the last one that was taken."""
        self._restart(position)

    def restart(self, position: Position) -> None:
        """See `Feed`."""
        with self._changed:
            self._restart(position)

    def put(self, taken: Taken, credit: Columns) -> int:
        """See `Feed`."""
        block = taken.block
        slot = int(block.actor.rpartition("-")[2])
        if slot not in self._actors:
            raise TroupeError(
                f"store: a block of {block.actor}, where only those of actors "
                f"{', '.join(map(str, self._actors))} belong"
            )
        with self._changed:
            self._entries.append((taken.id, block.turn, block.steps))
            if block.turn < self._turn:
                return block.steps
            held = self._held.setdefault((block.turn, block.policy), {})
            if slot in held:
                return block.steps
            held[slot] = Piece(block, credit, None, taken.id)
            self._changed.notify_all()
            return 0

    def ready(self, timeout: float) -> tuple[str, ...]:
        """Every policy, once the turn is whole, see `Feed`."""
        with self._changed:
            self._changed.wait_for(self._whole, timeout)
            return tuple(self._waiting) if self._whole() else ()

    def wake(self) -> None:
        """See `Feed`."""
        with self._changed:
            self._changed.notify_all()

    def drop(self, policy: str, older_than: int) -> list[Piece]:
        """Nothing: in lockstep the age of a block is part of the plan."""
        return []

    def take(self, policy: str) -> list[Piece]:
        """The turn's blocks of a policy, in the order of actors; see `Feed`."""
        with self._changed:
            if not self._complete(policy):
                raise ValueError(f"{policy}: turn {self._turn} is not whole")
            held = self._held.pop((self._turn, policy))
            pieces = [held[slot] for slot in self._actors]
            self._waiting.remove(policy)
            if not self._waiting:
                self.resume = {slot: held[slot].block.resume for slot in self._actors}
                self._waiting = list(self._policies)
                self._turn += 1
            return pieces

    def position(self, needed: Iterable[str] = ()) -> Position:
        """See `Feed`; a replay memory is part of the checkpoint, so nothing else is needed."""
        with self._changed:
            while self._entries and self._entries[0][1] < self._turn:
                self._after, _, _ = self._entries.popleft()
            rows = {id_: steps for id_, turn, steps in self._entries if turn < self._turn}
            return Position(generation=self._generation, after=self._after, rows=rows)

    def _restart(self, position: Position) -> None:
        self._generation = position.generation
        self._after = position.after
        self._entries: deque[tuple[str, int, int]] = deque()
        """Id, turn and steps of the blocks behind `after`."""
        self._held.clear()

    def _whole(self) -> bool:
        return all(self._complete(policy) for policy in self._waiting)

    def _complete(self, policy: str) -> bool:
        return len(self._held.get((self._turn, policy), ())) == len(self._actors)
