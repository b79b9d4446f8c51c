"""Whom to play against next: probabilities as pure functions of the candidates and what is known of them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Odds = NDArray[np.float64]
"""[N]: the probability of each candidate; they sum to 1."""


def uniform(count: int) -> Odds:
    """Everybody alike: fictitious self-play."""
    return np.full(count, 1.0 / count)


def newest(count: int, ratio: float = 0.8) -> Odds:
    """Candidates are in the order of their age, the newest last; one place older is `ratio` as likely."""
    return _normalised(ratio ** np.arange(count - 1, -1, -1.0))


def pfsp(
    win_rates: Sequence[float], weighting: Literal["hard", "even"] = "hard", power: float = 2.0
) -> Odds:
    """Prioritised fictitious self-play: in proportion to f(p), p the rate of wins against a candidate.

    `hard` is f(p) = (1 - p) ** power: those that still win. `even` is f(p) = p (1 - p): those that
    are a match. Vinyals et al., "Grandmaster level in StarCraft II using multi-agent reinforcement
    learning", Nature 575 (2019), Methods. Where every f(p) is 0, everybody alike.
    """
    p = np.asarray(win_rates, np.float64)
    return _normalised((1.0 - p) ** power if weighting == "hard" else p * (1.0 - p))


def _normalised(weights: Odds) -> Odds:
    total = float(weights.sum())
    return weights / total if total > 0 else uniform(len(weights))
