"""Which prompt a ticket stands for: tickets count prompts through all epochs, whoever answers them."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupe.seeding import stream


class Place(NamedTuple):
    """What a ticket stands for."""

    epoch: int
    prompt: int


class Order:
    """The order of `size` prompts in every epoch: that of the file, or by (seed, epoch).

    It is known everywhere without asking anyone, so nothing needs to be queued.
    """

    def __init__(self, size: int, seed: int, *, shuffle: bool) -> None:
        self.size = size
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def place(self, ticket: int) -> Place:
        """The epoch and the prompt of a ticket."""
        epoch, position = divmod(ticket, self.size)
        return Place(epoch, int(self._epoch(epoch)[position]) if self._shuffle else position)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return stream(self._seed, "prompts", epoch).permutation(self.size)


def of_turn(turn: int, slot: int, slots: int, groups: int) -> Iterator[int]:
    """In lockstep, the tickets that actor `slot` of `slots` answers in a turn of so many groups.

    It follows from these alone, so that no one races for a prompt; each of `groups` is one actor's.
    """
    return iter(range(turn * groups + slot, (turn + 1) * groups, slots))
