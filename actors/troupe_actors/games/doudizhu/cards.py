"""Sets of cards as one 64-bit word, and the deal.

A set of cards (a hand, a move) has four bits a rank, from 3 up to 2, then one bit for each joker:
`c` cards of a rank set the lowest `c` of its bits, a thermometer. So a rank held at least `k` times
is one shifted mask, and a move is its lowest card times a pattern. Sums of cards are kept as
`counts` instead: the same places, with a number in each, so that sets are added and subtracted as
integers. Compiled code uses int64 throughout: Numba turns int64 with uint64 into floats.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from troupe_actors.games.doudizhu.compiled import compiled

RANKS: Final = 13
ONES: Final = 0x1_1111_1111_1111
"""The lowest bit of each rank."""
CHAIN: Final = 0x1111_1111_1111
"""The same for 3 to ace, the ranks that chains are made of."""
BLACK_JOKER: Final = 1 << 52
RED_JOKER: Final = 1 << 53
JOKERS: Final = BLACK_JOKER | RED_JOKER
DECK: Final = (1 << 54) - 1
DECK_COUNTS: Final = 4 * ONES | JOKERS
HAND_SIZES: Final = (20, 17, 17)

_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


@compiled
def counts(cards: int) -> int:
    """The counts of a set of cards."""
    low = (cards & ONES) + (cards >> 1 & ONES)
    high = (cards >> 2 & ONES) + (cards >> 3 & ONES)
    return low + high + (cards & JOKERS)


@compiled
def thermometer(number: int) -> int:
    """The set of cards that has these counts, of at most four a rank."""
    b0, b1, b2 = number & ONES, number >> 1 & ONES, number >> 2 & ONES
    low = (b0 | b1 | b2) | (b1 | b2) << 1
    high = (b0 & b1 | b2) << 2 | b2 << 3
    return low | high | (number & JOKERS)


@compiled
def size(cards: int) -> int:
    """How many cards a set has."""
    pairs = cards - (cards >> 1 & 0x5555555555555555)
    fours = (pairs & 0x3333333333333333) + (pairs >> 2 & 0x3333333333333333)
    eights = (fours + (fours >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (eights * 0x0101010101010101) >> 56


@compiled
def mix(word: np.uint64) -> np.uint64:
    """Scatter 64 bits, one to one (the finaliser of SplitMix64; Steele et al., OOPSLA 2014)."""
    word = (word ^ (word >> np.uint64(30))) * _MIX_1
    word = (word ^ (word >> np.uint64(27))) * _MIX_2
    return word ^ (word >> np.uint64(31))


@compiled
def deal_key(seed: np.uint64, number: int) -> np.uint64:
    """The key of deal `number` of a seed."""
    return mix(mix(seed + _GAMMA) + np.uint64(number) * _GAMMA)


@compiled
def deal(key: np.uint64) -> tuple[int, int, int]:
    """The counts of three hands of 20, 17 and 17 cards, shuffled by SplitMix64 from `key`."""
    deck = np.arange(54)
    landlord, down, state = 0, 0, key
    for i in range(37):
        state += _GAMMA
        draw = (mix(state) >> np.uint64(32)) * np.uint64(54 - i) >> np.uint64(32)
        j = i + np.int64(draw)
        card = deck[j]
        deck[j] = deck[i]
        unit = 1 << (card if card >= 52 else card & ~3)
        if i < 20:
            landlord += unit
        else:
            down += unit
    return landlord, down, DECK_COUNTS - landlord - down


def deal_hands(key: int) -> NDArray[np.uint64]:
    """The deal of a 64-bit key: three hands by seat, uint64 [3], for `Tables.deal`."""
    return np.array([thermometer(hand) for hand in deal(np.uint64(key))], np.uint64)
