"""Which prompt a ticket stands for: tickets count prompts through all epochs, whoever answers them."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import count
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


def share_of(slot: int, slots: int, groups: int) -> int:
    """In lockstep, how many of a turn's groups actor `slot` of `slots` brings."""
    return len(range(slot, groups, slots))


def of_slot(slot: int, slots: int, groups: int, start: int) -> Iterator[int]:
    """In lockstep, the tickets that actor `slot` of `slots` answers one after the other, from `start` on.

    Each is one actor's, so no one races for a prompt. Where every turn takes an actor's share of
    `groups` and no more, turn t answers the tickets from t * groups on.
    """
    share = share_of(slot, slots, groups)
    for position in count(start) if share else ():
        turn, place = divmod(position, share)
        yield turn * groups + place * slots + slot
