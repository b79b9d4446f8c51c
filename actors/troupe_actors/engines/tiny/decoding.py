"""What the loop asks of a model: rows of sequences with a cache, each read token by token."""

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from troupe.episodes import Columns

Tokens = NDArray[np.int32]
P = TypeVar("P")


class Decoder(Protocol[P]):
    """A model and what its rows have read. P is what a text leaves behind that was read ahead."""

    def read(self, texts: Sequence[Tokens]) -> list[P]:
        """Read these texts, of any lengths, 0 too."""
        ...

    def admit(self, texts: Sequence[P]) -> None:
        """Add a row behind the others for each of these, which stay as they are."""
        ...

    def keep(self, going: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Forget all rows but those where `going` [n]; which row each place has now."""
        ...

    def step(self, tokens: NDArray[np.int64]) -> Tensor:
        """Read one more token [n] in each row: float32 [n, vocabulary], the logits of the next.

        The caller may change them; they hold until the next call.
        """
        ...

    def load(self, tensors: Columns, bfloat16: Collection[str]) -> None:
        """Take weights, as `Engine.load` has it. What was read stays."""
        ...
