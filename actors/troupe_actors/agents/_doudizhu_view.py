"""What a seat of Dou Dizhu knows, read back from its packed observation: agents see no more than that."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupe_actors.agents import Position

Words = NDArray[np.uint64]

CARDS = 54
"""Bits of a packed hand: four a rank from 3 to 2, lowest first, then the black and the red joker."""
DEALT = (20, 17, 17)
"""Cards of landlord, landlord_down and landlord_up at the start."""

_HAND, _OTHERS, _TO_BEAT = 0, 1, 2
_PLAYED = {0: {1: 3, 2: 4}, 1: {0: 5, 2: 6}, 2: {0: 5, 1: 6}}
"""For each seat to move: which of its features, counted in hands, says what another seat has played."""


class View(NamedTuple):
    """What the seat to move knows on each of B tables."""

    hand: Words
    """[B]: its cards."""
    others: Words
    """[B]: the other two hands together."""
    to_beat: Words
    """[B]: the move to beat; 0 where it leads."""
    leader: NDArray[np.int64]
    """[B]: who made that move; the seat itself where it leads."""
    left: NDArray[np.int64]
    """[B, 3]: how many cards each seat still holds."""


def read(position: Position) -> View:
    """Read the observation of every table."""
    state = np.unpackbits(position.observation["state"], axis=1, bitorder="little")
    seat = position.seat.astype(np.int64)
    hand, to_beat = _word(state, _HAND), _word(state, _TO_BEAT)
    return View(
        hand=hand,
        others=_word(state, _OTHERS),
        to_beat=to_beat,
        leader=_leader(position, seat, to_beat),
        left=_left(state, seat, hand),
    )


def _word(state: NDArray[np.uint8], feature: int) -> Words:
    """One 54-bit feature of unpacked rows as words."""
    bits = state[:, feature * CARDS : (feature + 1) * CARDS]
    packed = np.zeros((len(state), 8), np.uint8)
    packed[:, :7] = np.packbits(bits, axis=1, bitorder="little")
    return packed.view(np.uint64)[:, 0]


def _leader(position: Position, seat: NDArray[np.int64], to_beat: Words) -> NDArray[np.int64]:
    """The previous seat made the move to beat, or, where that one passed, the seat before it."""
    history = position.observation["history"][:, :102]
    newest = np.unpackbits(history, axis=1, bitorder="little")[:, 14 * CARDS : 15 * CARDS]
    back = np.where(newest.any(axis=1), 1, 2)
    return np.where(to_beat == 0, seat, (seat - back) % 3)


def _left(state: NDArray[np.uint8], seat: NDArray[np.int64], hand: Words) -> NDArray[np.int64]:
    left = np.empty((len(state), 3), np.int64)
    for me, played in _PLAYED.items():
        rows = np.flatnonzero(seat == me)
        left[rows, me] = np.bitwise_count(hand[rows])
        for other, feature in played.items():
            left[rows, other] = DEALT[other] - np.bitwise_count(_word(state[rows], feature))
    return left
