"""How sure a result is: intervals clustered by deal, and what two plays of one deal share."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

Z95 = 1.959964
"""The 97.5 % quantile of the normal distribution: a two-sided interval of 95 %."""


class Interval(NamedTuple):
    """A mean and the ends of its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def mean_interval(per_deal: Values) -> Interval:
    """The mean of [D] values, one for each deal, with the normal interval of the mean.

    Plays of one deal are not independent: average them first, so that a deal counts once.

    Raises:
        ValueError: there is no deal.
    """
    if per_deal.size == 0:
        raise ValueError("an interval needs at least one deal")
    mean, error = float(per_deal.mean()), _standard_error(per_deal)
    return Interval(mean, mean - Z95 * error, mean + Z95 * error)


def share_interval(per_deal: Values) -> Interval:
    """The same for shares between 0 and 1, such as games won, with Wilson's interval.

    The score interval of Wilson (1927) with the effective number of games that the variance between
    deals implies (Dean and Pagano, 2015): it stays within 0 and 1, and a run of nothing but wins
    does not pretend to be certain.

    Raises:
        ValueError: there is no deal.
    """
    mean, low, high = mean_interval(per_deal)
    variance = _standard_error(per_deal) ** 2
    spread = mean * (1 - mean)
    if spread > 0 and variance == 0:
        return Interval(mean, low, high)
    deals = float(per_deal.size)
    games = spread / variance if spread > 0 and math.isfinite(variance) else deals
    shrink = 1 + Z95**2 / games
    centre = (mean + Z95**2 / (2 * games)) / shrink
    half = Z95 / shrink * math.sqrt(spread / games + Z95**2 / (4 * games**2))
    return Interval(mean, max(0.0, centre - half), min(1.0, centre + half))


def correlation(first: Values, second: Values) -> float:
    """Pearson's correlation of two [D] series; NaN where one of them never changes.

    For the two seatings of one deal it says what duplicate deals are worth: near -1 the luck of the
    cards cancels, near 0 they are as good as two deals.
    """
    one, two = first - first.mean(), second - second.mean()
    scale = math.sqrt(float(one @ one) * float(two @ two))
    return float(one @ two) / scale if scale > 0 else math.nan


def _standard_error(values: Values) -> float:
    """Standard error of the mean; infinite where a single value tells nothing of the spread."""
    if values.size < 2:
        return math.inf
    return float(values.std(ddof=1)) / math.sqrt(values.size)
