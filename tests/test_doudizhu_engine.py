"""Tables: deals, turns, payoffs, forced moves, and play that goes wrong."""

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from troupe_actors.games import Turn
from troupe_actors.games.doudizhu import Game, Rules, Tables, deal_hands
from troupe_actors.games.doudizhu.cards import DECK, DECK_COUNTS, counts, deal_key, size
from troupe_actors.games.doudizhu.compiled import compiled
from troupe_actors.games.doudizhu.moves import is_bomb
from troupe_actors.games.doudizhu.names import letters

GAME = Game(Rules())
GOLDEN = ("344568999TTJQKKAA22B", "3345567788TJJQAAR", "345667789TJQQKK22")
Choice = NDArray[np.int64]


def random_choice(turn: Turn, random: np.random.Generator) -> Choice:
    return (random.random(len(turn.seat)) * np.diff(turn.offsets)).astype(np.int64)


def chosen(turn: Turn, choice: Choice) -> list[int]:
    return turn.moves[turn.offsets[:-1] + choice].tolist()


def deals(count: int, key: int = 7) -> NDArray[np.uint64]:
    return np.stack([deal_hands(key + t) for t in range(count)])


def snapshot(turn: Turn) -> list[bytes]:
    columns = [turn.seat, turn.offsets, turn.moves, turn.legal, turn.group]
    return [column.tobytes() for column in [*columns, *turn.observation.values()]]


def total(hands: list[int]) -> int:
    return sum(counts(hand) for hand in hands)


def test_random_play_is_that_of_the_published_engines() -> None:
    """0.352, 61.0 and 5.62, to four standard errors and half a unit of their last digit.

    One game a table, so games are independent; moves a decision is a ratio of sums over games, and
    its standard error that of the residual (Cochran, Sampling Techniques, section 6.3).
    """
    count = 25_000
    tables, random = GAME.tables(count, 1, skip_forced=False), np.random.default_rng(1)
    playing, wins = np.ones(count, bool), np.zeros(count)
    length, moves = np.zeros(count), np.zeros(count)
    turn = tables.turn()
    while playing.any():
        length += playing
        moves += playing * np.diff(turn.offsets)
        turn = tables.play(random_choice(turn, random))
        first = playing[turn.finished]
        wins[turn.finished[first]] = turn.payoff[first, 0] > 0
        playing[turn.finished] = False
    per_decision = moves.sum() / length.sum()
    residual = (moves - per_decision * length) / length.mean()
    for value, spread, published, digit in (
        (wins.mean(), wins.std(), 0.352, 0.001),
        (length.mean(), length.std(), 61.0, 0.1),
        (per_decision, residual.std(), 5.62, 0.01),
    ):
        assert abs(value - published) < 4 * spread / np.sqrt(count) + digit / 2


@pytest.mark.parametrize("doubling", [True, False])
def test_cards_are_conserved_and_the_winner_is_paid(doubling: bool) -> None:
    count, random = 32, np.random.default_rng(2)
    tables = Game(Rules(bomb_doubling=doubling)).tables(count, 9, skip_forced=False)
    turn = tables.turn()
    played, bombs, doubled = [0] * count, [0] * count, 0
    for _ in range(1500):
        choice = random_choice(turn, random)
        seats, moves, held = turn.seat.tolist(), chosen(turn, choice), tables.hands().tolist()
        turn = tables.play(choice)
        after = tables.hands().tolist()
        ended = dict(zip(turn.finished.tolist(), turn.payoff.tolist(), strict=True))
        for t, (seat, move) in enumerate(zip(seats, moves, strict=True)):
            played[t] += counts(move)
            bombs[t] += is_bomb(move)
            won = counts(held[t][seat]) == counts(move)
            assert won == (t in ended)
            if won:
                stake = 2.0 ** bombs[t] if doubling else 1.0
                doubled += bombs[t] > 0
                landlord = stake if seat == 0 else -stake
                assert ended[t] == [landlord, -landlord, -landlord]
                played[t], bombs[t] = 0, 0
                assert [size(hand) for hand in after[t]] == [20, 17, 17]
            assert total(after[t]) + played[t] == DECK_COUNTS
    assert doubled > 10


def test_a_deal_depends_on_nothing_but_its_key() -> None:
    few, many = GAME.tables(3, 2**64 - 5), GAME.tables(5, 2**64 - 5)
    assert few.hands().tolist() == many.hands()[:3].tolist()
    assert few.hands().tolist() != GAME.tables(3, 4).hands().tolist()
    random, turn = np.random.default_rng(0), few.turn()
    seen = {int(g): few.hands()[g].tolist() for g in turn.group}
    for _ in range(400):
        turn = few.play(random_choice(turn, random))
        for t in turn.finished:
            group = int(turn.group[t])
            assert group not in seen
            assert group % 3 == t
            seen[group] = few.hands()[t].tolist()
    key = np.uint64(2**64 - 5)
    assert all(deal_hands(int(deal_key(key, g))).tolist() == hands for g, hands in seen.items())
    assert len({str(hands) for hands in seen.values()}) == len(seen) > 10


def test_deals_stay_what_they_are_from_version_to_version() -> None:
    assert tuple(letters(hand) for hand in deal_hands(1).tolist()) == GOLDEN


def test_every_card_is_dealt_to_every_seat_alike() -> None:
    hands = deals(4000, key=0)
    for seat, cards in enumerate((20, 17, 17)):
        share = [
            float(np.mean(hands[:, seat] >> np.uint64(bit) & np.uint64(1))) for bit in (52, 53)
        ]
        lowest = (hands[:, seat, None] >> np.arange(0, 52, 4, dtype=np.uint64)) & np.uint64(15)
        ranks = np.bitwise_count(lowest).mean(0) / 4
        expected = cards / 54  # standard error of a joker's share is below 0.008
        assert np.allclose([*share, *ranks], expected, atol=0.032)


def test_forced_moves_are_made_and_counted() -> None:
    """Tables that skip them show just the real decisions of tables that do not."""
    random = np.random.default_rng(4)
    skipping, plain = GAME.tables(1, 3), GAME.tables(1, 3, skip_forced=False)
    turn, shown = skipping.turn(), plain.turn()
    for _ in range(600):
        assert snapshot(turn) == snapshot(shown)
        choice = random_choice(turn, random)
        turn, shown = skipping.play(choice), plain.play(choice)
        payoff = [shown.payoff]
        while shown.offsets[1] == 1:
            shown = plain.play(np.zeros(1, np.int64))
            payoff.append(shown.payoff)
        np.testing.assert_array_equal(turn.payoff, np.concatenate(payoff))
        assert (skipping.decisions, skipping.forced) == (plain.decisions, plain.forced)
    assert skipping.decisions - skipping.forced == 600
    assert skipping.forced > 100


def test_given_deals_are_played_once() -> None:
    hands, random = deals(20), np.random.default_rng(5)
    tables = GAME.tables(20, 0)
    turn = tables.deal(hands)
    np.testing.assert_array_equal(tables.hands(), hands)
    assert turn.group.tolist() == list(range(20))
    payoff = np.zeros((20, 3))
    while not tables.done.all():
        assert not np.diff(turn.offsets)[tables.done].any()
        choice = random_choice(turn, random)
        choice[tables.done] = 99  # not looked at
        turn = tables.play(choice)
        assert not payoff[turn.finished].any()
        payoff[turn.finished] = turn.payoff
    assert np.abs(payoff).min() >= 1
    decisions = tables.decisions
    turn = tables.play(np.zeros(20, np.int64))
    assert tables.decisions == decisions
    assert len(turn.moves) == len(turn.finished) == 0
    assert not tables.deal(hands).finished.size
    assert not tables.done.any()


@pytest.mark.parametrize("choice", [np.zeros(3, np.int64), np.zeros(4), np.zeros((4, 1), np.int64)])
def test_a_choice_of_the_wrong_form_is_refused(choice: Choice) -> None:
    with pytest.raises(ValueError, match=r"not int64 \(4,\)"):
        GAME.tables(4, 1).play(choice)


def test_a_choice_may_be_strided_or_read_only() -> None:
    tables = GAME.tables(4, 1)
    tables.play(np.zeros(8, np.int64)[::2])
    frozen = np.zeros(4, np.int64)
    frozen.flags.writeable = False
    tables.play(frozen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hands: hands[:1], "not uint64"),
        (lambda hands: hands.astype(np.int64), "not uint64"),
        (lambda hands: hands[:, ::-1].copy(), "deal 0: hands of"),
        (lambda hands: hands | np.uint64(1 << 60), "deal 0: hands of"),
        (lambda hands: hands[:, [0, 1, 1]], "do not make up the deck"),
        (lambda hands: _gap(hands), "not filled from each rank's lowest"),
    ],
)
def test_hands_that_are_no_deal_are_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    tables = GAME.tables(2, 1)
    before = snapshot(tables.turn())
    with pytest.raises(ValueError, match=message):
        tables.deal(change(deals(2)))
    assert snapshot(tables.turn()) == before


def _gap(hands: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Move the bits of a rank one up, so that its lowest is empty."""
    word = int(hands[1, 0])
    rank = next(r for r in range(13) if 0 < (word >> 4 * r & 15) < 15)
    held = word >> 4 * rank & 15
    changed = hands.copy()
    changed[1, 0] = word ^ (held ^ held << 1) << 4 * rank
    return changed


def test_no_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="0 tables"):
        GAME.tables(0, 1)


def test_moves_are_shown_to_policies_as_their_bits() -> None:
    turn = GAME.tables(8, 1).turn()
    bits = np.unpackbits(turn.legal, axis=1, bitorder="little")
    assert bits.shape == (len(turn.moves), 56)
    weights = np.uint64(1) << np.arange(56, dtype=np.uint64)
    np.testing.assert_array_equal(bits @ weights, turn.moves)
    assert int(turn.moves.max()) <= DECK


def test_seats_have_spaces_of_their_own() -> None:
    widths = [GAME.spaces(seat).observation["state"].shape for seat in range(3)]
    assert widths == [(319,), (430,), (430,)]
    assert GAME.spaces(0).observation["history"].shape == (15, 54)
    assert GAME.spaces(0).action.shape == (54,)


def test_code_is_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    assert compiled(_double)(21) == 42


def _double(number: int) -> int:
    return 2 * number


def test_tables_are_what_actors_expect() -> None:
    from troupe_actors import games

    game: games.Game = GAME
    tables: games.Tables = game.tables(1, 1)
    assert isinstance(tables, Tables)
