"""What a seat sees: recomputed plainly from the moves made, and blind to hidden cards."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe.episodes import Columns
from troupe_actors.games.doudizhu import Game, Rules, Tables, deal_hands, features
from troupe_actors.games.doudizhu.cards import counts, thermometer
from troupe_actors.games.doudizhu.names import describe

GAME = Game(Rules())
LEFT = (20, 17, 17)
Bits = list[int]


def ranks(cards: int) -> Counter[int]:
    """How many of each rank, 0 to 12, and of the jokers, 13 and 14."""
    held = Counter({r: (cards >> 4 * r & 15).bit_count() for r in range(13)})
    return held + Counter({13: cards >> 52 & 1, 14: cards >> 53})


def thermometers(held: Counter[int]) -> Bits:
    bits = [int(c < held[r]) for r in range(13) for c in range(4)]
    return [*bits, held[13], held[14]]


def one_hot(index: int, width: int) -> Bits:
    return [int(i == index) for i in range(width)]


class PlainTable:
    """One game by its moves alone."""

    def __init__(self, hands: list[int]) -> None:
        self.hands = [ranks(hand) for hand in hands]
        self.made: list[tuple[int, int]] = []

    def make(self, seat: int, move: int) -> None:
        self.hands[seat] -= ranks(move)
        self.made.append((seat, move))

    @property
    def to_beat(self) -> int:
        latest = [move for _, move in self.made[-2:]]
        return next((move for move in reversed(latest) if move), 0)

    @property
    def bombs(self) -> int:
        return sum(describe(move) == "rocket" or self._is_four(move) for _, move in self.made)

    def played(self, seat: int) -> Counter[int]:
        return sum((ranks(move) for by, move in self.made if by == seat), Counter())

    def latest(self, seat: int) -> Counter[int]:
        return ranks(next((move for by, move in reversed(self.made) if by == seat), 0))

    def state(self, seat: int) -> Bits:
        others = sum((self.hands[s] for s in range(3) if s != seat), Counter())
        cards = [self.hands[seat], others, ranks(self.to_beat)]
        rivals = (1, 2) if seat == 0 else (0, 3 - seat)
        if seat:
            cards += [self.latest(rival) for rival in rivals]
        cards += [self.played(rival) for rival in rivals]
        bits = [bit for held in cards for bit in thermometers(held)]
        for rival in rivals:
            bits += one_hot(self.hands[rival].total() - 1, LEFT[rival])
        return bits + one_hot(self.bombs, 15)

    def history(self) -> Bits:
        moves = [0] * 15 + [move for _, move in self.made]
        return [bit for move in moves[-15:] for bit in thermometers(ranks(move))]

    @staticmethod
    def _is_four(move: int) -> bool:
        return list(ranks(move).values()) == [4]


def unpack(observation: Columns, seat: int) -> tuple[Bits, Bits]:
    """The bits of one table's rows; what is behind a row's width must be zero."""
    state = np.unpackbits(observation["state"], bitorder="little")
    history = np.unpackbits(observation["history"], bitorder="little")
    width = GAME.spaces(seat).observation["state"].shape[0]
    assert observation["state"].shape == (54,)
    assert observation["history"].shape == (102,)
    assert not state[width:].any()
    assert not history[810:].any()
    return state[:width].tolist(), history[:810].tolist()


def test_features_are_those_of_the_moves_made() -> None:
    count = 6
    tables = GAME.tables(count, 5, skip_forced=False)
    random = np.random.default_rng(3)
    turn = tables.turn()
    plain = [PlainTable(hands) for hands in tables.hands().tolist()]
    for _ in range(150):
        for t, table in enumerate(plain):
            seat = int(turn.seat[t])
            row = {name: column[t] for name, column in turn.observation.items()}
            assert unpack(row, seat) == (table.state(seat), table.history())
            assert unpack(tables.observe(t, seat), seat) == (table.state(seat), table.history())
        choice = random.integers(np.diff(turn.offsets))
        chosen = turn.moves[turn.offsets[:-1] + choice]
        for table, seat, move in zip(plain, turn.seat.tolist(), chosen.tolist(), strict=True):
            table.make(seat, move)
        turn = tables.play(choice)
        for t in turn.finished:
            plain[t] = PlainTable(tables.hands()[t].tolist())


def play(hands: list[int], made: list[int]) -> Tables:
    """One table on which these moves were made from these hands."""
    tables = GAME.tables(1, 0, skip_forced=False)
    turn = tables.deal(np.array([hands], np.uint64))
    for move in made:
        turn = tables.play(np.flatnonzero(turn.moves == move))
    return tables


def shuffled_between(hands: list[int], random: np.random.Generator) -> list[int]:
    """Two hands of the same sizes with the same cards between them, dealt at random."""
    cards = np.array([rank for hand in hands for rank in ranks(hand).elements()])
    random.shuffle(cards)
    first = ranks(hands[0]).total()
    dealt = [Counter(cards[:first].tolist()), Counter(cards[first:].tolist())]
    return [sum(bit << i for i, bit in enumerate(thermometers(hand))) for hand in dealt]


@settings(max_examples=60, deadline=None)
@given(key=st.integers(0, 2**64 - 1), moves=st.integers(0, 60), seat=st.integers(0, 2))
def test_hidden_cards_never_reach_an_observation(key: int, moves: int, seat: int) -> None:
    random = np.random.default_rng(key)
    start = deal_hands(key).tolist()
    tables = GAME.tables(1, 0, skip_forced=False)
    turn = tables.deal(np.array([start], np.uint64))
    made: list[int] = []
    while len(made) < moves and tables.hands().all():
        choice = random.integers(np.diff(turn.offsets))
        made.append(int(turn.moves[choice[0]]))
        turn = tables.play(choice)

    held = tables.hands()[0].tolist()
    hidden = [s for s in range(3) if s != seat]
    other = list(start)
    for s, hand in zip(hidden, shuffled_between([held[s] for s in hidden], random), strict=True):
        played = tables.view(0, s).played[s]
        other[s] = thermometer(counts(hand) + counts(played))
    again = play(other, made)

    assert again.hands()[0, seat] == held[seat]
    for name, row in tables.observe(0, seat).items():
        np.testing.assert_array_equal(row, again.observe(0, seat)[name])
    assert tables.view(0, seat) == again.view(0, seat)
    if tables.turn().seat[0] == seat:
        np.testing.assert_array_equal(tables.turn().moves, again.turn().moves)


def test_the_last_feature_of_a_row_is_not_written_behind_it() -> None:
    """Compiled code would do so in silence; the same function uncompiled cannot."""
    plain = features._put.py_func  # type: ignore[attr-defined]
    for at in range(max(features.STATE_BITS)):
        row = np.zeros(features.STATE_WORDS, np.int64)
        plain(row, at, np.int64(1))
        bits = np.unpackbits(row.view(np.uint8), bitorder="little")
        assert np.flatnonzero(bits).tolist() == [at]
