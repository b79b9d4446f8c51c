"""What vLLM's workers learn from us: to take weights. vLLM finds it by its dotted path."""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor


class _Model(Protocol):
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> object: ...


class _Runner(Protocol):
    model: _Model


class WeightsTaker:
    """Mixed by vLLM into its worker, which has a `model_runner`."""

    model_runner: _Runner

    def take_weights(self, weights: list[tuple[str, Tensor]]) -> None:
        """Copy weights, by their names in the Hugging Face folder, into the parameters."""
        self.model_runner.model.load_weights(weights)
