"""Prioritised replay (Schaul et al., 2016, arXiv:1511.05952), in host memory."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def priorities(td_error: Floats, exponent: float, least: float = 1e-6) -> Floats:
    """(|error| + least)^exponent, float [B]: in proportion to what steps are to be drawn with.

    Args:
        td_error: float [B], of an item's newest evaluation.
        exponent: alpha; 0 draws uniformly.
        least: keeps an item without error in the draw.
    """
    return (np.abs(td_error) + least) ** exponent


def importance_weights(
    probability: Floats, count: int, exponent: float, largest: float | None = None
) -> Floats:
    """(N P(i))^-beta, divided by the largest: how much each drawn item's loss counts.

    Where several learners hold a part of the replay each, P, N and the largest are those of all
    parts together, or the correction is one within the part only.

    Args:
        probability: float [B], P(i) of the drawn items.
        count: N, items held.
        exponent: beta; 0 corrects nothing, 1 all of the bias of the draw.
        largest: the weight, before dividing, that becomes 1; none is the largest of these B.

    Returns:
        float [B], in (0, 1] unless `largest` is less than one of them.
    """
    weight = (count * probability) ** -exponent
    return weight / (weight.max() if largest is None else largest)


class SumTree:
    """Priorities of a fixed number of places, drawn from in proportion; a batch takes log2(n) passes.

    Every node is the sum of its two children, computed afresh whenever one of them changes: the
    tree is a function of its leaves alone, so it does not drift and is restored from them.

    Args:
        capacity: number of places; all priorities begin at 0, which is never drawn.

    Raises:
        ValueError: the capacity is not positive.
    """

    def __init__(self, capacity: int) -> None:
        if capacity <= 0:
            raise ValueError(f"a sum tree of {capacity} places holds nothing")
        self._capacity = capacity
        self._depth = (capacity - 1).bit_length()
        self._leaves = 1 << self._depth
        self._sum = np.zeros(2 * self._leaves)  # node i has children 2i and 2i+1; node 0 is unused

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self._sum[1])

    def __getitem__(self, index: Indices) -> Floats:
        """Priorities at places: int [B] to float [B]."""
        return self._sum[self._leaves + self._checked(index)]

    def __setitem__(self, index: Indices, priority: Floats) -> None:
        """Set priorities at places: int [B] and float [B]; of a place given twice the last counts.

        Raises:
            IndexError: a place does not exist.
            ValueError: a priority is negative or not finite.
        """
        priority = np.asarray(priority, dtype=np.float64)
        if not bool(np.all(np.isfinite(priority) & (priority >= 0.0))):
            raise ValueError("a priority is negative or not finite")
        node = self._leaves + self._checked(index)
        self._sum[node] = priority
        for _ in range(self._depth):
            node = node >> 1
            self._sum[node] = self._sum[2 * node] + self._sum[2 * node + 1]

    def find(self, prefix: Floats) -> Indices:
        """The place in whose share of [0, total) each point lies: float [B] to int [B].

        The place i with p_0 + ... + p_{i-1} <= point < p_0 + ... + p_i. A place of priority 0 is
        never found, whatever rounding does to the sums.

        Raises:
            ValueError: all priorities are 0.
        """
        if self.total <= 0.0:
            raise ValueError("all priorities are 0: there is nothing to draw")
        rest = np.array(prefix, dtype=np.float64)
        node = np.ones(rest.shape, dtype=np.int64)
        for _ in range(self._depth):
            left = self._sum[2 * node]
            right = (rest >= left) & (self._sum[2 * node + 1] > 0.0)
            rest -= np.where(right, left, 0.0)
            node = 2 * node + right
        return node - self._leaves

    def sample(self, random: np.random.Generator, count: int) -> tuple[Indices, Floats]:
        """Draw with replacement, one from each of `count` equal strata of the total.

        Returns:
            Places, int [count], and the probabilities P(i) that they had, float [count].

        Raises:
            ValueError: all priorities are 0.
        """
        strata = (np.arange(count) + random.random(count)) / count
        index = self.find(strata * self.total)
        return index, self[index] / self.total

    def _checked(self, index: Indices) -> Indices:
        index = np.asarray(index, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= self._capacity):
            raise IndexError(f"a place is outside of 0 to {self._capacity - 1}")
        return index
