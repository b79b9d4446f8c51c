"""Picking one of the listed actions of many decisions at once. Pure functions on arrays."""

import numpy as np
from numpy.typing import NDArray

from troupe.episodes import Array
from troupe.errors import TroupeError
from troupe.policies import Choices, Decisions


def best(values: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first highest value of every segment, counted from the segment's start.

    Args:
        values: [M].
        offsets: [B + 1]: segment i is `values[offsets[i]:offsets[i + 1]]`, and none is empty.

    Returns:
        [B].

    Raises:
        TroupeError: a segment's highest value is not finite: the weights have diverged.
    """
    starts, counts = offsets[:-1], offsets[1:] - offsets[:-1]
    highest = np.maximum.reduceat(values, starts)
    if not np.isfinite(highest).all():
        raise TroupeError("policy: a value is not finite, its weights have diverged")
    hits = np.flatnonzero(values == np.repeat(highest, counts))[::-1]
    first = np.empty(starts.size, np.int64)
    # Where an index repeats, the last value assigned stays: from behind, that is the first hit.
    first[np.searchsorted(offsets, hits, "right") - 1] = hits
    return first - starts


def epsilon_greedy(
    values: NDArray[np.float32],
    decisions: Decisions,
    random: np.random.Generator,
    epsilon: float,
) -> Choices:
    """The best action of every decision, or with probability `epsilon` any, all equally likely.

    `values` [M] are those of the listed actions. The same count of numbers is drawn from `random`
    whatever the values are.

    Raises:
        TroupeError: as `best`.
    """
    offsets = decisions.offsets
    greedy = best(values, offsets)
    if epsilon == 0.0:
        action = decisions.legal[offsets[:-1] + greedy]
        return Choices(action, np.zeros(greedy.size, np.float32), greedy)
    counts = offsets[1:] - offsets[:-1]
    explores, place = random.random((2, counts.size))
    choice = np.where(explores < epsilon, (place * counts).astype(np.int64), greedy)
    uniform = epsilon / counts
    probability = np.where(choice == greedy, 1.0 - epsilon + uniform, uniform)
    action = decisions.legal[offsets[:-1] + choice]
    return Choices(action, np.log(probability).astype(np.float32), choice)


def owners(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """[M]: whose each listed action is, with `offsets` [B + 1]."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def listing(legal: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers [M] of what is `legal` [B, n], row after row, and their offsets [B + 1]."""
    offsets = np.zeros(len(legal) + 1, np.int64)
    np.cumsum(legal.sum(axis=1), out=offsets[1:])
    return np.nonzero(legal)[1], offsets


def places(action: Array, decisions: Decisions) -> NDArray[np.int64]:
    """[B]: where each numbered action [B] stands among its decision's listed ones; 0 if none is.

    Raises:
        TroupeError: an action is not listed.
    """
    if not len(decisions.legal):
        return np.zeros(len(action), np.int64)
    owner = owners(decisions.offsets)
    (hits,) = np.nonzero(decisions.legal == action[owner])
    if not np.array_equal(owner[hits], np.arange(len(action))):
        raise TroupeError(
            "policy: a game's listed actions are not those that its `action_mask` allows"
        )
    return hits - decisions.offsets[:-1]
