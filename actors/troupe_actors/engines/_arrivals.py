"""Weights as they arrive, checked whole before an engine takes the first of them."""

import warnings
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from troupe.episodes import Array, Columns
from troupe.errors import TroupeError
from troupe.language.adapters import merged


class Arrivals:
    """What a model takes: its own tensors by name, or those of a LoRA adapter, which it merges."""

    def __init__(self, own: Mapping[str, Tensor], lora_scale: float | None) -> None:
        """
        Args:
            own: the model's own tensors as its folder has them; kept where adapters arrive.
            lora_scale: what an adapter's products are multiplied by; None: whole weights arrive.
        """
        self._shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        self._base = dict(own) if lora_scale is not None else {}
        self._scale = lora_scale
        self._held = 0
        """Weights that the adapter before changed."""

    def taken(self, tensors: Columns, bfloat16: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Every weight to be set, by its name in the folder, on the CPU; all were checked.

        Raises:
            TroupeError: they are not this model's; nothing was given out then.
        """
        found = {name: tensor_of(array, name in bfloat16) for name, array in tensors.items()}
        if self._scale is not None:
            made = dict(merged(self._base, found, self._scale))
            if self._held and len(made) != self._held:
                raise TroupeError(
                    f"weights: an adapter of {len(made)} layers, the one before had {self._held}"
                )
            self._held = len(made)
            return iter(made.items())
        self._check({name: tuple(tensor.shape) for name, tensor in found.items()})
        return iter(found.items())

    def _check(self, given: Mapping[str, tuple[int, ...]]) -> None:
        if given == self._shapes:
            return
        names = sorted({*given, *self._shapes})
        wrong = next(name for name in names if given.get(name) != self._shapes.get(name))
        raise TroupeError(
            f"weights: {wrong} is {given.get(wrong, 'missing')}, this model has "
            f"{self._shapes.get(wrong, 'none')}: they are of another model, or of a LoRA adapter"
        )


def tensor_of(array: Array, bfloat16: bool) -> Tensor:
    """An array as a tensor that shares its memory, which is only read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    return tensor.view(torch.bfloat16) if bfloat16 else tensor
