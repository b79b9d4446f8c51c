"""Where blocks from the store wait until there are enough for a turn of learning."""

from collections.abc import Iterable
from typing import Protocol

from troupe.checkpoint import Position
from troupe.episodes import Columns
from troupe.store.replay import Taken
from troupe_learners.batches import Piece


class Feed(Protocol):
    """Safe to share between the thread that puts blocks in and the one that takes them."""

    def put(self, taken: Taken, credit: Columns) -> int:
        """Append the next block of the stream; returns how many of its steps are consumed already.

        Args:
            taken: the block.
            credit: what the algorithm computed of it.

        Raises:
            TroupeError: it cannot come from an actor of this run.
        """
        ...

    def ready(self, timeout: float) -> tuple[str, ...]:
        """The policies whose turn it is, in the order in which they are to be trained.

        Waits up to `timeout` seconds for it, or until `wake`.
        """
        ...

    def wake(self) -> None:
        """End a wait in `ready` early."""
        ...

    def drop(self, policy: str, older_than: int) -> list[Piece]:
        """Discard the blocks of a policy whose oldest version is below this; what those were."""
        ...

    def take(self, policy: str) -> list[Piece]:
        """What a policy that is ready learns from. From here on it counts as consumed.

        Raises:
            ValueError: there is not enough.
        """
        ...

    def position(self, needed: Iterable[str] = ()) -> Position:
        """What is consumed, for a checkpoint that is taken now; see `Ledger.position`."""
        ...

    def restart(self, position: Position) -> None:
        """Forget every block: the stream begins anew at `position`."""
        ...
