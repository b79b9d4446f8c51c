"""What a seat sees, as bits: hidden cards reach it only as their sum.

`state`, in order, each set of cards as its 54 bits:

- landlord (319 bits): own hand; the other two hands together; the move to beat; what
  landlord_down, then landlord_up has played; cards left of landlord_down (one of 17), of
  landlord_up (one of 17); bombs played (one of 15).
- peasants (430 bits): own hand; the other two hands together; the move to beat; the landlord's
  latest move; the teammate's latest move; what the landlord, then the teammate has played; cards
  left of the landlord (one of 20), of the teammate (one of 17); bombs played (one of 15).

`history` (810 bits): the latest 15 moves, the oldest first, zeros for a pass and before the start.
Bit `i` of a row is bit `i % 8` of byte `i // 8`.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from troupe_actors.games.doudizhu.cards import DECK_COUNTS, thermometer
from troupe_actors.games.doudizhu.compiled import compiled

CARDS: Final = 54
STATE_BITS: Final = (319, 430, 430)
"""By seat."""
STATE_WORDS: Final = 7
HISTORY: Final = 15
HISTORY_WORDS: Final = 13


@compiled
def remember(history: NDArray[np.int64], move: int) -> None:
    """Drop the oldest of the 15 moves in `history`, int64 [13], and add `move` as the newest."""
    for i in range(HISTORY_WORDS - 1):
        history[i] = (history[i] >> CARDS & 0x3FF) | history[i + 1] << 10
    history[HISTORY_WORDS - 2] |= move << 52
    history[HISTORY_WORDS - 1] = move >> 12


@compiled
def _put(row: NDArray[np.int64], at: int, bits: int) -> None:
    """Set `bits`, none of them negative, in a cleared row from bit `at` on."""
    word, shift = at >> 6, at & 63
    row[word] |= bits << shift
    if shift > 10 and word + 1 < len(row):  # compiled code checks no bounds
        row[word + 1] |= bits >> (64 - shift)


@compiled
def write_state(
    seat: int,
    hand: NDArray[np.int64],
    played: NDArray[np.int64],
    latest: NDArray[np.int64],
    to_beat: int,
    bombs: int,
    left: NDArray[np.int64],
    row: NDArray[np.int64],
) -> None:
    """Write the `state` of `seat` into `row`, int64 [7]; hands and played cards are counts, [3]."""
    others = DECK_COUNTS - hand[seat] - played[0] - played[1] - played[2]
    down, up = played[1], played[2]
    row[:] = 0
    _put(row, 0, thermometer(hand[seat]))
    _put(row, 54, thermometer(others))
    _put(row, 108, to_beat)
    if seat == 0:
        _put(row, 162, thermometer(down))
        _put(row, 216, thermometer(up))
        _put(row, 270, 1 << left[1] >> 1)
        _put(row, 287, 1 << left[2] >> 1)
        _put(row, 304, 1 << bombs)
    else:
        mate = 3 - seat
        _put(row, 162, latest[0])
        _put(row, 216, latest[mate])
        _put(row, 270, thermometer(played[0]))
        _put(row, 324, thermometer(played[mate]))
        _put(row, 378, 1 << left[0] >> 1)
        _put(row, 398, 1 << left[mate] >> 1)
        _put(row, 415, 1 << bombs)
