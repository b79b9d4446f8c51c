import math

import numpy as np
import pytest

from troupe_actors.statistics import correlation, mean_interval, share_interval


def test_interval_of_a_mean_is_the_textbooks() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    mean, low, high = mean_interval(values)
    # s^2 = 5/3, s/sqrt(4) = 0.645497
    assert mean == 2.5
    assert (low, high) == pytest.approx((2.5 - 1.959964 * 0.645497, 2.5 + 1.959964 * 0.645497))


def test_share_of_independent_games_is_wilsons() -> None:
    # 8 of 10: Wilson's interval without correction is 0.4902 to 0.9433 with n = 10; the variance
    # between deals is taken with n - 1, so here n_eff = 9.
    mean, low, high = share_interval(np.array([1.0] * 8 + [0.0] * 2))
    games, z = 9.0, 1.959964
    centre = (0.8 + z * z / (2 * games)) / (1 + z * z / games)
    half = z / (1 + z * z / games) * math.sqrt(0.16 / games + z * z / (4 * games**2))
    assert mean == 0.8
    assert (low, high) == pytest.approx((centre - half, centre + half))


def test_share_counts_deals_and_not_games() -> None:
    random = np.random.default_rng(0)
    first = (random.random(2000) < 0.5).astype(float)
    luck_decides = share_interval((first + first) / 2)
    luck_cancels = share_interval((first + (1 - first) * (random.random(2000) < 0.9)) / 2)
    assert luck_decides.high - luck_decides.low == pytest.approx(0.0438, abs=0.002)
    assert luck_cancels.high - luck_cancels.low < 0.02


def test_nothing_but_wins_is_not_certainty() -> None:
    mean, low, high = share_interval(np.ones(100))
    assert (mean, high) == (1.0, 1.0)
    assert low == pytest.approx(0.963, abs=0.001)
    mean, low, high = share_interval(np.zeros(100))
    assert (mean, low) == (0.0, 0.0)
    assert high == pytest.approx(0.037, abs=0.001)


def test_interval_covers_the_truth_about_19_times_in_20() -> None:
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(1000):
        deals = (random.random((200, 2)) < 0.95).mean(axis=1)
        _, low, high = share_interval(deals)
        hits += low <= 0.95 <= high
    assert 0.93 <= hits / 1000 <= 0.97


def test_one_deal_tells_nothing_of_the_spread() -> None:
    assert mean_interval(np.array([2.0])) == (2.0, -math.inf, math.inf)
    _, low, high = share_interval(np.array([0.5]))
    assert low < 0.1
    assert high > 0.9


def test_no_deal_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_interval(np.array([]))


def test_correlation() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    assert correlation(values, values) == pytest.approx(1.0)
    assert correlation(values, 1 - values) == pytest.approx(-1.0)
    assert correlation(values, np.array([0.0, 1.0, 0.0, 1.0, 1.0])) == pytest.approx(1 / 6)
    assert math.isnan(correlation(values, np.ones(5)))
