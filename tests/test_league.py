"""The league's maths against small cases, closed forms and slow references."""

import itertools
import json
import math

import numpy as np
import pytest

from troupe.config import parse
from troupe.jobs.spec import OpponentSettings
from troupe.league import matchmaking
from troupe.league.payoffs import PayoffTable, Record, pack, unpack
from troupe.league.pool import Member
from troupe.league.ratings import ELO, rate
from troupe.league.state import League

# Payoffs.


def test_records_add_up():
    table = PayoffTable()
    table.add("a", "b", Record(2, 1, 1, 3.5))
    table.add("a", "b", Record(1, 0, 0, 1.0))
    held = table.record("a", "b")
    assert held == Record(3, 1, 1, 4.5)
    assert (held.games, held.score, held.mean_payoff) == (5, 3.5, 0.9)
    assert table.record("b", "a") == Record()
    assert Record().mean_payoff == 0.0


def test_the_win_rate_of_few_games_is_near_one_half():
    assert Record().win_rate() == 0.5
    assert Record(wins=1).win_rate() == 0.75
    assert Record(wins=1).win_rate(prior=0) == 1.0
    assert Record(wins=300, draws=100, losses=100).win_rate() == pytest.approx(0.7, abs=1e-3)


def test_old_games_count_less():
    table = PayoffTable()
    for age, player in enumerate(("new", "old", "oldest")):
        table.add(player, "b", Record(wins=8, losses=age, payoff=4))
    assert table.recent(["new", "old", "oldest"], "b", 0.5) == Record(14, 0, 1.0, 7.0)
    assert table.recent(["old"], "b", 0.5) == Record(8, 0, 1, 4)


def test_tables_and_reports_survive_being_written():
    table = PayoffTable()
    table.add("a", "b", Record(0.1 + 0.2, 1, 2, -1 / 3))
    table.add("b", "a", Record(1))
    assert PayoffTable(table.entries()).pairs() == table.pairs()
    records = {"a@50": Record(3, 0, 1, 0.1), "b": Record()}
    assert unpack(pack(records)) == records
    assert pack({}) == b""
    assert unpack(b"") == {}
    table.forget("a")
    assert not table.pairs()


# Matchmaking.


def test_odds_of_small_pools():
    np.testing.assert_allclose(matchmaking.uniform(4), [0.25] * 4)
    np.testing.assert_allclose(matchmaking.newest(3, 0.5), [1 / 7, 2 / 7, 4 / 7])
    np.testing.assert_allclose(
        matchmaking.pfsp([0.5, 0.9, 0.0], "hard"), [25 / 126, 1 / 126, 100 / 126]
    )
    np.testing.assert_allclose(
        matchmaking.pfsp([0.5, 0.9, 0.0], "even"), [25 / 34, 9 / 34, 0], atol=1e-15
    )


@pytest.mark.parametrize("weighting", ["hard", "even"])
def test_whoever_beats_all_meets_all(weighting):
    np.testing.assert_allclose(matchmaking.pfsp([1.0, 1.0], weighting), [0.5, 0.5])


def test_odds_sum_to_one():
    random = np.random.default_rng(1)
    for count in (1, 2, 17):
        rates = random.random(count).tolist()
        for odds in (
            matchmaking.uniform(count),
            matchmaking.newest(count),
            matchmaking.pfsp(rates, "hard", 3.0),
            matchmaking.pfsp(rates, "even"),
        ):
            assert odds.shape == (count,)
            assert (odds >= 0).all()
            assert odds.sum() == pytest.approx(1.0)


# Ratings.


def test_two_players_have_a_closed_form():
    rating = rate({("a", "b"): Record(wins=74, draws=1, losses=24)}, "b")["a"]
    odds = (74 + 0.5 + 0.5) / (24 + 0.5 + 0.5)
    assert rating.elo == pytest.approx(400 * math.log10(odds))
    spread = 1.959964 * ELO / math.sqrt(100 * 0.75 * 0.25)
    assert rating.high - rating.elo == pytest.approx(spread, rel=1e-6)
    assert rating.elo - rating.low == pytest.approx(spread, rel=1e-6)


def test_the_anchor_is_where_it_is_said_to_be():
    records = {
        ("a", "b"): Record(3, 0, 1),
        ("c", "b"): Record(1, 0, 5),
        ("a", "c"): Record(2, 2, 2),
    }
    at_zero, at_hundred = rate(records, "b"), rate(records, "b", at=100.0)
    assert at_hundred["b"] == (100.0, 100.0, 100.0)
    for name in "abc":
        assert np.array(at_hundred[name]) - at_zero[name] == pytest.approx(100.0)
    mean = rate(records)
    assert sum(rating.elo for rating in mean.values()) == pytest.approx(0.0, abs=1e-9)
    assert mean["a"].elo - mean["c"].elo == pytest.approx(at_zero["a"].elo - at_zero["c"].elo)
    assert mean["b"].high > mean["b"].elo


def slow_ratings(records, prior):
    """Hunter's minorise-maximise iteration on strengths, in Elo with mean 0."""
    names = sorted({name for pair in records for name in pair})
    wins, games = dict.fromkeys(names, 0.0), {}
    for (a, b), record in records.items():
        for pair in ((a, b), (b, a)):
            games[pair] = games.get(pair, 0.0) + record.games
        wins[a] += record.score
        wins[b] += record.games - record.score
    for pair in games:
        games[pair] += prior
        wins[pair[0]] += prior / 2
    strength = dict.fromkeys(names, 1.0)
    for _ in range(2_000):
        for a in names:
            met = (n / (strength[a] + strength[b]) for (x, b), n in games.items() if x == a)
            strength[a] = wins[a] / sum(met)
    logs = {name: math.log(s) for name, s in strength.items()}
    mean = sum(logs.values()) / len(names)
    return {name: ELO * (value - mean) for name, value in logs.items()}


def test_ratings_are_those_of_a_slow_reference():
    random = np.random.default_rng(3)
    records = {
        pair: Record(*random.integers(0, 9, 3).astype(float))
        for pair in itertools.permutations("abcde", 2)
        if random.random() < 0.6
    }
    slow = slow_ratings(records, prior=1.0)
    fast = rate(records)
    assert fast.keys() == slow.keys()
    for name, rating in fast.items():
        assert rating.elo == pytest.approx(slow[name], abs=1e-6)


def test_intervals_are_those_of_the_numeric_second_derivative():
    records = {
        ("a", "b"): Record(9, 0, 4),
        ("b", "c"): Record(5, 1, 6),
        ("a", "c"): Record(2, 0, 1),
    }
    fitted = rate(records, "c")

    def loss(a, b):
        strength = {"a": a, "b": b, "c": 0.0}
        total = 0.0
        for (x, y), record in records.items():
            gap = strength[x] - strength[y]
            total += (record.score + 0.5) * math.log1p(math.exp(-gap))
            total += (record.games - record.score + 0.5) * math.log1p(math.exp(gap))
        return total

    at, eps = np.array([fitted["a"].elo, fitted["b"].elo]) / ELO, 1e-4
    hessian = np.empty((2, 2))
    for i, j in itertools.product(range(2), range(2)):
        e, f = eps * np.eye(2)[i], eps * np.eye(2)[j]
        hessian[i, j] = (
            loss(*(at + e + f)) - loss(*(at + e - f)) - loss(*(at - e + f)) + loss(*(at - e - f))
        ) / (4 * eps**2)
    spread = 1.959964 * ELO * np.sqrt(np.diag(np.linalg.inv(hessian)))
    for name, expected in zip("ab", spread, strict=True):
        assert fitted[name].high - fitted[name].elo == pytest.approx(expected, rel=1e-4)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    random, held, count = np.random.default_rng(5), 0, 200
    truth = {"a": 250.0, "b": 100.0, "c": 0.0}
    for _ in range(count):
        records = {}
        for a, b in itertools.combinations(truth, 2):
            wins = random.binomial(100, 1 / (1 + 10 ** ((truth[b] - truth[a]) / 400)))
            records[a, b] = Record(wins, 0, 100 - wins)
        rating = rate(records, "c")["a"]
        held += rating.low <= truth["a"] <= rating.high
    assert 0.90 < held / count < 0.99


def test_who_never_lost_is_rated_all_the_same():
    rating = rate({("a", "b"): Record(wins=10)}, "b")["a"]
    assert rating.elo == pytest.approx(400 * math.log10(21))
    assert rating.low < rating.elo < rating.high < 2000
    million = rate({("a", "b"): Record(wins=1e6)}, "b")["a"]
    assert million.elo == pytest.approx(400 * math.log10(2e6 + 1), rel=1e-6)
    assert rate({("a", "b"): Record(wins=1)}, "b")["a"].low < 0, "one game says little"
    with pytest.raises(ValueError, match="prior"):
        rate({}, prior=0.0)


def test_only_those_connected_with_the_anchor_are_rated():
    records = {
        ("a", "b"): Record(1),
        ("c", "d"): Record(1),
        ("d", "e"): Record(1),
        ("f", "a"): Record(),
    }
    assert set(rate(records, "a")) == {"a", "b"}
    assert set(rate(records)) == {"c", "d", "e"}
    assert rate(records, "f") == {}
    assert rate({}) == {}


# The league.


def a_league(**settings):
    return League(parse(OpponentSettings, settings), ["p"], [Member(name="other")])


def test_members_join_every_so_many_versions_and_the_oldest_go():
    league = a_league(every=10, keep=3)
    assert league.due(0)
    for version in range(60):
        if league.due(version):
            league.admit({"p": version})
    assert [member.name for member in league.members] == ["other", "p@30", "p@40", "p@50"]
    assert league.pool(60).members == league.members
    assert league.pool(60).version == 60


def test_elo_goes_on_where_the_oldest_member_was():
    league = a_league(every=10, keep=2)
    league.admit({"p": 0})
    league.hear("p", {"p@0": Record(wins=30, losses=10)})
    league.admit({"p": 10})
    league.hear("p", {"p@0": Record(wins=35, losses=5), "p@10": Record(wins=20, losses=20)})
    before = league.ratings("p")
    assert before["p@0"].elo == 0
    assert before["from 10"].elo > before["from 0"].elo > 0
    league.admit({"p": 20})
    after = league.ratings("p")
    assert "p@0" not in after
    assert "from 0" not in after
    for name in ("p@10", "from 10"):
        assert after[name].elo == pytest.approx(before[name].elo, abs=25)
    assert after["p@10"].low == after["p@10"].elo, "it is the anchor now"


def test_hard_opponents_are_met_more_often():
    league = a_league(every=10, sampling="pfsp")
    league.admit({"p": 0})
    league.hear("p", {"p@0": Record(wins=90, losses=10), "other": Record(wins=10, losses=90)})
    other, mine = league.pool(1).odds["p"]
    assert other / mine == pytest.approx((90.5 / 10.5) ** 2)
    assert a_league().pool(0).odds["p"] == (1.0,)


def test_a_league_is_saved_whole():
    league = a_league(every=10, keep=2)
    for version in (0, 10, 20):
        league.admit({"p": version})
        league.hear("p", {"other": Record(1 / 3, 2, 3, 0.1), f"p@{version}": Record(5, 1)})
    again = a_league(every=10, keep=2)
    again.restore(json.loads(json.dumps(league.dump())))
    assert again.dump() == league.dump()
    assert again.pool(5) == league.pool(5)
    assert again.ratings("p") == league.ratings("p")
    without = League(parse(OpponentSettings, {"keep": 2}), ["p"])
    without.restore(league.dump())
    assert without.recent("p", "other") == Record()
    assert without.recent("p", "p@20") == Record(5, 1)


def test_what_is_heard_of_those_who_are_gone_is_left_out():
    league = a_league()
    league.hear("p", {"p@700": Record(5)})
    assert league.dump() == a_league().dump()
