"""Every legal move against the rules written down once more, slowly and plainly."""

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe_actors.games.doudizhu import Game, Rules
from troupe_actors.games.doudizhu.aec import every_move
from troupe_actors.games.doudizhu.cards import counts, size, thermometer
from troupe_actors.games.doudizhu.engine import MOST_MOVES
from troupe_actors.games.doudizhu.moves import PASS, ROCKET, list_moves
from troupe_actors.games.doudizhu.names import describe, parse_move

# Cards are ranks here: 0 to 12 for 3 to 2, then 13 and 14 for the jokers; a hand is a sorted tuple.
Cards = tuple[int, ...]
Reading = tuple[str, int, int]
"""What cards can be taken for: a kind, how many ranks its body has, and the lowest of them."""
ACE, TWO, BLACK, RED = 11, 12, 13, 14
BODIES = {
    "single": (1, 1, 1),
    "pair": (2, 1, 1),
    "triple": (3, 1, 1),
    "bomb": (4, 1, 1),
    "chain": (1, 5, 12),
    "pair chain": (2, 3, 10),
    "triple chain": (3, 2, 6),
}
"""Copies of each rank, and the least and greatest number of ranks."""


def reference_bodies(hand: Cards) -> Iterator[tuple[str, int, int, Cards]]:
    held = Counter(hand)
    for kind, (copies, least, most) in BODIES.items():
        for length in range(least, most + 1):
            for start in range(RED + 1):
                ranks = range(start, start + length)
                if (length == 1 or ranks[-1] <= ACE) and all(held[r] >= copies for r in ranks):
                    yield kind, length, start, tuple(r for r in ranks for _ in range(copies))


def reference_kickers(rest: Cards, number: int, rules: Rules) -> Iterator[tuple[str, Cards]]:
    for taken in set(itertools.combinations(rest, number)):
        bomb = 4 in Counter(taken).values()
        if not bomb and (rules.both_jokers_kicker or not {BLACK, RED} <= set(taken)):
            yield "singles", taken
    pairs = [rank for rank, held in Counter(rest).items() if held >= 2]
    for ranks in itertools.combinations(pairs, number):
        yield "pairs", tuple(r for rank in ranks for r in (rank, rank))


def reference_leads(hand: Cards, rules: Rules) -> dict[Cards, set[Reading]]:
    """Everything that can be led, with everything it can be taken for."""
    found: dict[Cards, set[Reading]] = {}

    def add(cards: Cards, reading: Reading) -> None:
        if len(cards) <= 20:
            found.setdefault(tuple(sorted(cards)), set()).add(reading)

    for kind, length, start, body in reference_bodies(hand):
        add(body, (kind, length, start))
        if kind in ("triple", "triple chain") or (kind == "bomb" and rules.four_with_two):
            rest = tuple(r for r in hand if r not in body)
            number = 2 if kind == "bomb" else length
            for how, kickers in reference_kickers(rest, number, rules):
                name = "four" if kind == "bomb" else "plane"
                add(body + kickers, (f"{name} with {how}", length, start))
    if {BLACK, RED} <= set(hand):
        found[BLACK, RED] = {("rocket", 1, BLACK)}
    return found


def reference_follows(hand: Cards, to_beat: Cards, rules: Rules) -> set[Cards]:
    """Everything that may be played on `to_beat`, the pass as no cards."""
    readings = reference_leads(to_beat, rules)[to_beat]
    plain = [reading for reading in readings if "with" not in reading[0]]
    kind, length, start = max(plain or readings, key=lambda reading: reading[2])
    legal: set[Cards] = {()}
    for cards, ways in reference_leads(hand, rules).items():
        higher = any(way[:2] == (kind, length) and way[2] > start for way in ways)
        bomb = any(way[0] == "bomb" for way in ways) and kind not in ("bomb", "rocket")
        if higher or bomb or (cards == (BLACK, RED) and kind != "rocket"):
            legal.add(cards)
    return legal


def word(cards: Cards) -> int:
    held = Counter(cards)
    ranks = sum(((1 << held[r]) - 1) << 4 * r for r in range(13))
    return ranks | (1 << 52) * held[BLACK] | (1 << 53) * held[RED]


def listed(hand: int, to_beat: int, rules: Rules) -> list[int]:
    out = np.empty(MOST_MOVES, np.int64)
    end = list_moves(hand, to_beat, rules.both_jokers_kicker, rules.four_with_two, out, 0)
    return out[:end].tolist()


MOST = "333444555666789TJQKA"
"""Of all hands of 20 cards, one with the most leads."""

rule_options = st.builds(
    Rules,
    both_jokers_kicker=st.booleans(),
    four_with_two=st.booleans(),
    bomb_doubling=st.booleans(),
)


@st.composite
def hands(draw: st.DrawFn) -> Cards:
    """At most 20 cards, rich in chains, triples and bombs."""
    ranks = draw(st.permutations(range(13))) if draw(st.booleans()) else range(13)
    full = draw(st.sampled_from([(0, 1, 2), (0, 1, 2, 3, 4), (0, 3, 3, 4), (0, 0, 1, 3)]))
    first = draw(st.integers(0, 12))
    cards = [rank for rank in (BLACK, RED) if draw(st.booleans())]
    for i in range(13):
        rank = ranks[(first + i) % 13]
        cards += [rank] * draw(st.sampled_from(full))
    return tuple(sorted(cards[:20])) or (0,)


@settings(max_examples=250, deadline=None)
@given(hand=hands(), rules=rule_options)
def test_leads_are_what_the_rules_say(hand: Cards, rules: Rules) -> None:
    found = listed(word(hand), PASS, rules)
    expected = {word(cards) for cards in reference_leads(hand, rules)}
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert expected <= set(every_move(rules).tolist())


@settings(max_examples=250, deadline=None)
@given(hand=hands(), other=hands(), rules=rule_options, data=st.data())
def test_follows_are_what_the_rules_say(
    hand: Cards, other: Cards, rules: Rules, data: st.DataObject
) -> None:
    leads = reference_leads(other, rules)
    kinds = sorted({reading[:2] for readings in leads.values() for reading in readings})
    kind = data.draw(st.sampled_from(kinds))
    alike = [c for c, readings in leads.items() if kind in {r[:2] for r in readings}]
    to_beat = data.draw(st.sampled_from(sorted(alike)))
    found = listed(word(hand), word(to_beat), rules)
    assert len(found) == len(set(found))
    assert set(found) == {word(cards) for cards in reference_follows(hand, to_beat, rules)}


@settings(deadline=None)
@given(hand=hands())
def test_sets_and_counts_of_cards_convert_both_ways(hand: Cards) -> None:
    held = Counter(hand)
    number = sum(held[r] << 4 * r for r in range(13)) | held[BLACK] << 52 | held[RED] << 53
    assert counts(word(hand)) == number
    assert thermometer(number) == word(hand)
    assert size(word(hand)) == len(hand)


@pytest.mark.parametrize("both_jokers", [False, True])
@pytest.mark.parametrize("four_with_two", [False, True])
def test_every_move_can_be_led_and_is_named_and_read_back(
    both_jokers: bool, four_with_two: bool
) -> None:
    rules = Rules(both_jokers_kicker=both_jokers, four_with_two=four_with_two)
    moves = every_move(rules).tolist()
    assert moves == sorted(set(moves))
    assert max(size(move) for move in moves) == 20
    assert len({describe(move) for move in moves}) == len(moves)
    for move in moves:
        assert parse_move(describe(move)) == move
        assert move == PASS or move in listed(move, PASS, rules)


def test_the_default_rules_know_27846_moves() -> None:
    assert len(every_move(Rules())) == 27_846


def test_the_hand_with_most_moves_has_room() -> None:
    hand = parse_move(MOST)
    assert len(listed(hand, PASS, Rules(both_jokers_kicker=True))) == 519 < MOST_MOVES


@pytest.mark.parametrize(
    ("on_table", "answer", "legal"),
    [
        ("333444555+999", "666777888+34", False),  # three kickers are needed
        ("333444555+999", "666777888+34T", True),  # the body is compared, not the kickers
        ("QQQKKKAAA+222", "rocket", True),
        ("JJJQQQKKKAAA", "2222", True),
        ("333444555+678", "444555666777", True),  # 555666777 with 444
        ("333444555666", "444555666777", True),
        ("333444555666", "777888999+JJJ", False),
        ("333444555666777+8", "444555666777+9TJQ", False),  # read as 444555666777+3338
        ("333444555666777+8", "555666777888+9TJQ", True),
        ("3333+45", "5555+66", True),
        ("3333+45", "5555+6677", False),
        ("2222", "rocket", True),
        ("TJQKA", "2222", True),
        ("9TJQK", "TJQKA", True),
    ],
)
def test_cases_that_other_engines_disagree_on(on_table: str, answer: str, legal: bool) -> None:
    hand = parse_move(answer)
    assert (hand in listed(hand, parse_move(on_table), Rules())) == legal


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("3", "3"),
        ("66", "66"),
        (" 4777 ", "777+4"),
        ("34567", "34567"),
        ("65 443334", "333444+56"),
        ("10 jqka", "TJQKA"),
        ("2222", "2222"),
        ("RB", "rocket"),
        ("Rocket", "rocket"),
        ("PASS", "pass"),
        ("aaakkkqqq222", "QQQKKKAAA+222"),
        ("333444555+444", None),
        ("3x", None),
        ("bb", None),
        ("", None),
    ],
)
def test_moves_are_written_as_people_write_them(written: str, name: str | None) -> None:
    game = Game(Rules())
    if name is None:
        with pytest.raises(ValueError, match=r"pass|not a card|more .* than the deck"):
            game.parse_move(written)
    else:
        assert game.describe(game.parse_move(written)) == name


def test_nothing_beats_the_rocket() -> None:
    assert listed(parse_move("2222AAAA"), ROCKET, Rules()) == [PASS]
