"""The rules of moves: what shape a move has, and every move a hand allows.

A move is its cards. Its *body* is `length` ranks in a row with `copies` cards each; triples and
fours may carry *kickers* of other ranks: single cards (`kicker` 1) or pairs (`kicker` 2), one for
each triple, two for a four. A move beats another of the same shape whose body starts lower.

Where cards can be read in two ways (triples as kickers), the reading that starts highest counts,
and four triples in a row are a chain of four triples rather than three with kickers.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from troupe_actors.games.doudizhu.cards import (
    BLACK_JOKER,
    CHAIN,
    JOKERS,
    ONES,
    RED_JOKER,
    size,
)
from troupe_actors.games.doudizhu.compiled import compiled

PASS: Final = 0
ROCKET: Final = JOKERS
SHORTEST: Final = (0, 5, 3, 2, 99)
"""The shortest chain of singles, pairs and triples, by copies; fours make none."""
LONGEST: Final = (0, 12, 10, 6, 1)
"""The longest that 20 cards hold."""
LONGEST_WITH_SINGLES: Final = 5
LONGEST_WITH_PAIRS: Final = 4

Shape = tuple[int, int, int, int]
"""What a move is: copies, length, kicker, and the lowest card of its body as a word."""


@compiled
def body(start: int, copies: int, length: int) -> int:
    """`length` ranks from `start` on with `copies` cards each."""
    return start * (((1 << copies) - 1) * (ONES & ((1 << 4 * length) - 1)))


@compiled
def starts_of(hand: int, copies: int, length: int) -> int:
    """Every card that a body of this shape can start at."""
    held = hand >> (copies - 1) & ONES
    if length == 1:
        return held | (hand & JOKERS) if copies == 1 else held
    held &= CHAIN
    starts = held
    for i in range(1, length):
        starts &= held >> 4 * i
    return starts


@compiled
def is_bomb(move: int) -> bool:
    """Whether a legal move is four of a rank alone, or the rocket."""
    return move == ROCKET or (move != PASS and move == (move & -move) * 15)


@compiled
def shape_of(move: int) -> Shape:
    """The `Shape` of a legal move that is neither a pass nor the rocket."""
    cards = size(move)
    lowest = move & -move
    fours = move >> 3 & ONES
    if fours:
        return 4, 1, (cards - 4) // 2, fours
    triples = move >> 2 & ONES
    if triples:
        length = size(triples)
        chained = length == 1 or triples & ~CHAIN == 0
        if chained and move == body(lowest, 3, length):
            return 3, length, 0, lowest
        pairs = size(move >> 1 & ONES & ~triples)
        if cards == 5 * length and pairs == length:
            return 3, length, 2, triples & -triples
        length = cards // 4
        starts = starts_of(move, 3, length)
        while starts & (starts - 1):
            starts &= starts - 1
        return 3, length, 1, starts
    if move >> 1 & ONES:
        return 2, cards // 2, 0, lowest
    return 1, cards, 0, lowest


@compiled
def _list_kickers(
    rest: int, number: int, both_jokers: bool, out: NDArray[np.int64], at: int
) -> int:
    """Write every way to take `number` cards of `rest` from `out[at]` on; return the end.

    Ways are built rank by rank from their lowest card, all of one size before the next size.
    """
    firsts = ONES | JOKERS
    low, high = at, at + 1
    out[at] = 0
    for _ in range(number):
        end = high
        for i in range(low, high):
            taken = out[i]
            reach = taken
            for shift in (1, 2, 4, 8, 16, 32):
                reach |= reach >> shift
            top = (reach + 1) >> 1
            more = (rest & firsts & ~reach) | (top << 1 & rest & ~firsts)
            if taken & BLACK_JOKER and not both_jokers:
                more &= ~RED_JOKER
            while more:
                card = more & -more
                more ^= card
                out[end] = taken | card
                end += 1
        low, high = high, end
    for i in range(high - low):
        out[at + i] = out[low + i]
    return at + high - low


@compiled
def _list_carried(
    hand: int,
    shape: Shape,
    leading: bool,
    both_jokers: bool,
    out: NDArray[np.int64],
    at: int,
) -> int:
    """Write the moves with kickers of one shape and start; return the end."""
    copies, length, kicker, start = shape
    rest = hand & ~body(start, 4, length)
    if kicker == 2:
        rest = rest >> 1 & ONES
    else:
        rest &= ~(ONES << 3)  # no bomb as kickers
        rest &= ~((start << 4 * length & CHAIN) << 2)  # read one rank higher, the same cards
        if leading and length == 3:
            rest &= ~(start >> 4 << 2)  # the same cards as four triples in a row
    end = _list_kickers(rest, length if copies == 3 else 2, both_jokers, out, at)
    carrier = body(start, copies, length)
    for i in range(at, end):
        out[i] = carrier | (out[i] * 3 if kicker == 2 else out[i])
    return end


@compiled
def _list_shape(
    hand: int,
    shape: Shape,
    leading: bool,
    both_jokers: bool,
    out: NDArray[np.int64],
    at: int,
) -> int:
    """Write every move of one shape that starts at one of the cards `shape[3]`; return the end."""
    copies, length, kicker, starts = shape
    pattern = body(1, copies, length)
    while starts:
        start = starts & -starts
        starts ^= start
        if kicker:
            one = (copies, length, kicker, start)
            at = _list_carried(hand, one, leading, both_jokers, out, at)
        else:
            out[at] = start * pattern
            at += 1
    return at


@compiled
def _list_leads(
    hand: int, both_jokers: bool, four_with_two: bool, out: NDArray[np.int64], at: int
) -> int:
    for copies in range(1, 5):
        starts = starts_of(hand, copies, 1)
        chain = starts & CHAIN
        length = 1
        while starts and length <= LONGEST[copies]:
            if length == 1 or length >= SHORTEST[copies]:
                plain = (copies, length, 0, starts)
                at = _list_shape(hand, plain, True, both_jokers, out, at)
                if copies == 3 or (copies == 4 and four_with_two):
                    if length <= LONGEST_WITH_SINGLES:
                        singles = (copies, length, 1, starts)
                        at = _list_shape(hand, singles, True, both_jokers, out, at)
                    if length <= LONGEST_WITH_PAIRS:
                        pairs = (copies, length, 2, starts)
                        at = _list_shape(hand, pairs, True, both_jokers, out, at)
            starts &= chain & chain >> 4 * length
            length += 1
    if hand & ROCKET == ROCKET:
        out[at] = ROCKET
        at += 1
    return at


@compiled
def list_moves(
    hand: int,
    to_beat: int,
    both_jokers: bool,
    four_with_two: bool,
    out: NDArray[np.int64],
    at: int,
) -> int:
    """Write every legal move of `hand` from `out[at]` on; return the end.

    `to_beat` is the move on the table, or 0 to lead; a pass comes first where it is allowed. `out`
    needs room for `MOST_MOVES` more. Every move is written once.
    """
    if to_beat == PASS:
        return _list_leads(hand, both_jokers, four_with_two, out, at)
    out[at] = PASS
    at += 1
    if to_beat == ROCKET:
        return at
    copies, length, kicker, start = shape_of(to_beat)
    starts = starts_of(hand, copies, length) & -(start << 1)
    same = (copies, length, kicker, starts)
    at = _list_shape(hand, same, False, both_jokers, out, at)
    if copies != 4 or kicker != 0:
        bombs = (4, 1, 0, starts_of(hand, 4, 1))
        at = _list_shape(hand, bombs, False, both_jokers, out, at)
    if hand & ROCKET == ROCKET:
        out[at] = ROCKET
        at += 1
    return at
