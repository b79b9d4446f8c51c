"""Drawing actions from a network's outputs, in numpy: what `distributions` scores, an actor draws.

How much is drawn from the generator does not depend on the outputs.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from troupe.episodes import Array
from troupe.errors import TroupeError
from troupe.policies.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gaussian,
    MultiCategorical,
)

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_] | None


class Drawing(Protocol):
    """How actions are drawn. Outputs are float32 [B, outputs], changed in place."""

    def draw(
        self, outputs: Floats, mask: Mask, random: np.random.Generator
    ) -> tuple[Array, Floats]:
        """Actions [B, ...], packed as in `Episodes`, and their log-probabilities [B].

        Raises:
            TroupeError: an output is not finite: the weights have diverged.
        """
        ...

    def mode(self, outputs: Floats, mask: Mask) -> Array:
        """The likeliest actions [B, ...]. Raises as `draw`."""
        ...


def drawing_of(distribution: Distribution) -> Drawing:
    """What draws from such distributions."""
    match distribution:
        case Categorical():
            return CategoricalDrawing()
        case MultiCategorical():
            return MultiCategoricalDrawing(distribution.counts)
        case Bernoulli():
            return BernoulliDrawing()
        case Gaussian():
            return GaussianDrawing()
    raise AssertionError(distribution)


class CategoricalDrawing:
    """One of n, from one uniform number a row, by the inverse of the cumulative distribution."""

    def draw(
        self, outputs: Floats, mask: Mask, random: np.random.Generator
    ) -> tuple[NDArray[np.int64], Floats]:
        """See `Drawing`."""
        check_finite(outputs)
        return self.draw_at(outputs, mask, random.random(len(outputs)))

    def draw_at(
        self, outputs: Floats, mask: Mask, uniform: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], Floats]:
        """The same where `uniform` [B] was drawn before, and outputs are known to be finite."""
        if mask is not None:
            outputs[~mask] = -np.inf
        outputs -= np.maximum.reduce(outputs, axis=1, keepdims=True)
        cumulated = np.add.accumulate(np.exp(outputs), axis=1)
        total = cumulated[:, -1]
        # A uniform number of 53 bits times a sum of 24 stays below the sum, so that the first
        # place above it always exists, and is never one that adds nothing.
        place = (uniform * total)[:, None]
        action = (cumulated > place).argmax(axis=1)
        log_prob = outputs[np.arange(len(action)), action] - np.log(total)
        return action, log_prob

    def mode(self, outputs: Floats, mask: Mask) -> NDArray[np.int64]:
        """See `Drawing`."""
        check_finite(outputs)
        if mask is not None:
            outputs[~mask] = -np.inf
        likeliest: NDArray[np.int64] = outputs.argmax(axis=1)
        return likeliest


class MultiCategoricalDrawing:
    """Several choices, each from a uniform number of its own."""

    def __init__(self, counts: Sequence[int]) -> None:
        bounds = np.cumsum([0, *counts]).tolist()
        self._parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
        self._one = CategoricalDrawing()

    def draw(
        self, outputs: Floats, mask: Mask, random: np.random.Generator
    ) -> tuple[NDArray[np.int64], Floats]:
        """See `Drawing`."""
        check_finite(outputs)
        uniform = random.random((len(self._parts), len(outputs)))
        drawn = [
            self._one.draw_at(outputs[:, part], None if mask is None else mask[:, part], row)
            for part, row in zip(self._parts, uniform, strict=True)
        ]
        actions, log_probs = zip(*drawn, strict=True)
        return np.stack(actions, axis=1), np.sum(log_probs, axis=0, dtype=np.float32)

    def mode(self, outputs: Floats, mask: Mask) -> NDArray[np.int64]:
        """See `Drawing`."""
        chosen = [
            self._one.mode(outputs[:, part], None if mask is None else mask[:, part])
            for part in self._parts
        ]
        return np.stack(chosen, axis=1)


class BernoulliDrawing:
    """Bits, each from a uniform number of its own."""

    def draw(
        self, outputs: Floats, mask: Mask, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Floats]:
        """See `Drawing`."""
        check_finite(outputs)
        bits = random.random(outputs.shape) < np.exp(-np.logaddexp(np.float32(0.0), -outputs))
        signed = np.where(bits, -outputs, outputs)
        log_prob = -np.logaddexp(np.float32(0.0), signed).sum(axis=1)
        return _packed(bits), log_prob

    def mode(self, outputs: Floats, mask: Mask) -> NDArray[np.uint8]:
        """See `Drawing`."""
        check_finite(outputs)
        return _packed(outputs > 0.0)


class GaussianDrawing:
    """Normal numbers; outputs are means, then logarithms of standard deviations."""

    def draw(
        self, outputs: Floats, mask: Mask, random: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """See `Drawing`."""
        check_finite(outputs)
        n = outputs.shape[1] // 2
        mean, log_std = outputs[:, :n], outputs[:, n:]
        noise = random.standard_normal(mean.shape, np.float32)
        action: Floats = np.exp(log_std)
        action *= noise
        action += mean
        log_prob = (-0.5 * noise * noise - log_std).sum(axis=1)
        log_prob -= np.float32(0.5 * n * math.log(2.0 * math.pi))
        return action, log_prob

    def mode(self, outputs: Floats, mask: Mask) -> Floats:
        """See `Drawing`."""
        check_finite(outputs)
        return outputs[:, : outputs.shape[1] // 2].copy()


def check_finite(values: Floats) -> None:
    """Raises TroupeError if a value is NaN or infinite."""
    flat = values.reshape(-1)
    # NaN and infinity survive a sum of squares, which is fast; a large finite sum may overflow too.
    if not math.isfinite(flat.dot(flat)) and not np.isfinite(flat).all():
        raise TroupeError("policy: an output is not finite, its weights have diverged")


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(bits, axis=1, bitorder="little")
