"""Elo ratings of all at once: the Bradley-Terry model by maximum likelihood, with intervals.

Whoever is rated r points above another wins with probability 1 / (1 + 10 ** (-r / 400)). A draw
counts as half a win and half a loss, which makes intervals a little wider than they need be.
Bradley and Terry, Biometrika 39 (1952); Hunter, Annals of Statistics 32 (2004).
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupe.league.payoffs import Record

ELO = 400.0 / np.log(10.0)
"""Points of a natural logarithm of odds."""
_NORMAL = 1.959963984540054
_STEPS = 100
_CLOSE = 1e-10

Matrix = NDArray[np.float64]
Pair = tuple[str, str]


class Rating(NamedTuple):
    """A rating, and its 95 % confidence interval; of the anchor, the same three times."""

    elo: float
    low: float
    high: float


def rate(
    records: Mapping[Pair, Record],
    anchor: str | None = None,
    *,
    at: float = 0.0,
    prior: float = 1.0,
) -> dict[str, Rating]:
    """Rate all that the anchor has met, or that have met those, and so on.

    Intervals come from the Fisher information at the estimate; they say how far a rating is from
    the anchor's.

    Args:
        records: what games came to, by player and opponent.
        anchor: whose rating is `at` by definition; without one the mean of all is, of those that
            are together the most.
        prior: drawn games that every pair that met is taken to have played besides: a rating
            is finite even if one side has won all.

    Raises:
        ValueError: the prior is not above 0.
    """
    if prior <= 0:
        raise ValueError(f"prior: {prior} is not above 0; who has won all would rate without end")
    met = [pair for pair, record in records.items() if record.games > 0 and pair[0] != pair[1]]
    groups = _connected(met)
    if anchor is None:
        names = max(groups, key=len, default=[])
    else:
        names = next((group for group in groups if anchor in group), [])
    if not names:
        return {}
    games, score = _tally({pair: records[pair] for pair in met if pair[0] in names}, names, prior)
    fixed = 0 if anchor is None else names.index(anchor)
    strength, covariance = _fit(games, score, fixed)
    if anchor is None:
        centre = np.eye(len(names)) - 1.0 / len(names)
        strength, covariance = centre @ strength, centre @ covariance @ centre
    elo = at + ELO * strength
    spread = ELO * _NORMAL * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return {
        name: Rating(float(e), float(e - s), float(e + s))
        for name, e, s in zip(names, elo, spread, strict=True)
    }


def _connected(pairs: Iterable[Pair]) -> list[list[str]]:
    """Names in groups that never met each other, in the order in which they come."""
    groups: list[list[str]] = []
    for pair in pairs:
        joined = [group for group in groups if pair[0] in group or pair[1] in group]
        groups = [group for group in groups if group not in joined]
        names = [name for group in joined for name in group]
        groups.append(list(dict.fromkeys([*names, *pair])))
    return groups


def _tally(records: Mapping[Pair, Record], names: list[str], prior: float) -> tuple[Matrix, Matrix]:
    """[n, n] twice: games, and the score of row against column, both with the prior's draws."""
    place = {name: index for index, name in enumerate(names)}
    games, score = np.zeros((2, len(names), len(names)))
    for (player, opponent), record in records.items():
        i, j = place[player], place[opponent]
        games[i, j] += record.games
        games[j, i] += record.games
        score[i, j] += record.score
        score[j, i] += record.games - record.score
    met = games > 0
    return games + prior * met, score + 0.5 * prior * met


def _fit(games: Matrix, score: Matrix, fixed: int) -> tuple[Matrix, Matrix]:
    """[n], [n, n]: log-strengths with that of `fixed` at 0, and their covariance.

    Newton's method on the log-likelihood, which is concave; a step that would lower it is halved.
    """
    n = len(games)
    free = np.delete(np.arange(n), fixed)
    strength = np.zeros(n)
    best = _log_likelihood(strength, score)
    for _ in range(_STEPS):
        expected = _expected(strength)
        gradient = (score - games * expected).sum(1)
        step = np.zeros(n)
        step[free] = np.linalg.solve(
            _information(games, expected)[np.ix_(free, free)], gradient[free]
        )
        while (here := _log_likelihood(strength + step, score)) < best and np.abs(
            step
        ).max() > _CLOSE:
            step *= 0.5
        strength, best = strength + step, here
        if np.abs(step).max(initial=0.0) < _CLOSE:
            break
    covariance = np.zeros((n, n))
    information = _information(games, _expected(strength))
    covariance[np.ix_(free, free)] = np.linalg.inv(information[np.ix_(free, free)])
    return strength, covariance


def _expected(strength: Matrix) -> Matrix:
    """[n, n]: the probability that row wins against column."""
    return np.exp(-np.logaddexp(0.0, strength[None, :] - strength[:, None]))


def _log_likelihood(strength: Matrix, score: Matrix) -> float:
    return float(-(score * np.logaddexp(0.0, strength[None, :] - strength[:, None])).sum())


def _information(games: Matrix, expected: Matrix) -> Matrix:
    """[n, n]: the Fisher information of all log-strengths, singular in the direction of all alike."""
    weights = games * expected * expected.T
    return np.diag(weights.sum(1)) - weights
