"""Weights that arrive from outside."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from troupe.episodes import Array
from troupe.errors import TroupeError

_Described = tuple[tuple[int, ...], np.dtype[np.generic]]


class Tensors:
    """The parameters and buffers of a module, which stay where they are."""

    def __init__(self, module: nn.Module) -> None:
        self._tensors = module.state_dict()
        hosted = {name: tensor.cpu().numpy() for name, tensor in self._tensors.items()}
        self._needed = {name: (array.shape, array.dtype) for name, array in hosted.items()}
        self._views = {
            name: hosted[name]
            for name, tensor in self._tensors.items()
            if tensor.device.type == "cpu"
        }

    def load(self, given: Mapping[str, Array]) -> None:
        """Take values by name, whole or not at all.

        Raises:
            TroupeError: they are not the tensors of this module.
        """
        described = {name: (array.shape, array.dtype) for name, array in given.items()}
        if described != self._needed:
            raise self._foreign(described)
        for name, array in given.items():
            if name in self._views:
                np.copyto(self._views[name], array)
            else:
                self._tensors[name].copy_(torch.tensor(array))

    def _foreign(self, given: Mapping[str, _Described]) -> TroupeError:
        names = sorted({*given, *self._needed})
        wrong = next(name for name in names if given.get(name) != self._needed.get(name))
        return TroupeError(
            f"weights: {wrong} is {_shown(given.get(wrong), 'missing')}, this network has "
            f"{_shown(self._needed.get(wrong), 'none')}: they are of other spaces or another `network`"
        )


def _shown(tensor: _Described | None, otherwise: str) -> str:
    return otherwise if tensor is None else f"{tensor[1]} {tensor[0]}"
