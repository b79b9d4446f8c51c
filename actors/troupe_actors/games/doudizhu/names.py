"""Moves in writing: `3`, `66`, `777+4`, `34567`, `333444+56`, `2222`, `rocket`, `pass`."""

from typing import Final

from troupe_actors.games.doudizhu.cards import BLACK_JOKER, RANKS, RED_JOKER
from troupe_actors.games.doudizhu.moves import PASS, ROCKET, body, shape_of

RANK_NAMES: Final = "3456789TJQKA2BR"
"""One letter a rank: T is ten, B and R are the black and the red joker."""


def describe(move: int) -> str:
    """A legal move as a person reads it: its body, then what it carries."""
    if move == PASS:
        return "pass"
    if move == ROCKET:
        return "rocket"
    copies, length, kicker, start = shape_of(move)
    carrier = body(start, copies, length)
    return f"{letters(carrier)}+{letters(move ^ carrier)}" if kicker else letters(carrier)


def letters(cards: int) -> str:
    """A set of cards, lowest first, a letter a card."""
    ranks = [RANK_NAMES[r] * (cards >> 4 * r & 15).bit_count() for r in range(RANKS)]
    jokers = "B" * bool(cards & BLACK_JOKER) + "R" * bool(cards & RED_JOKER)
    return "".join(ranks) + jokers


def parse_move(text: str) -> int:
    """The move that a person wrote: cards in any order and case, `10` for a ten, `+` left out or not.

    Whether it is legal is another question: see if it is among the moves of the turn.

    Raises:
        ValueError: a letter is no card, or there are more of one than the deck has.
    """
    written = text.strip().lower()
    named = {"pass": PASS, "rocket": ROCKET}
    if written in named:
        return named[written]
    word = 0
    for letter in written.upper().replace("10", "T").replace("+", "").replace(" ", ""):
        rank = RANK_NAMES.find(letter)
        if rank < 0:
            raise ValueError(
                f"{text!r}: {letter!r} is not a card; cards are {' '.join(RANK_NAMES)}"
            )
        place = 4 * min(rank, RANKS) + max(rank - RANKS, 0)
        held = (word >> place & (15 if rank < RANKS else 1)).bit_count()
        if held == (4 if rank < RANKS else 1):
            raise ValueError(f"{text!r}: more {letter} than the deck has")
        word |= 1 << place + held
    if not word:
        raise ValueError(f"{text!r} names no cards; to let it go by, write pass")
    return word
