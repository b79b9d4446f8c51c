"""A module whose parameters are views of one buffer: copying or blending all of it is one operation.

Parameters that are not trained, such as those that adapters are added to, stay where they are; they
are no part of the weights.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from troupe.episodes import Array
from troupe.errors import TroupeError


class FlatModule:
    """Lays the parameters of a module end to end, group by group.

    The module must not be moved to another device afterwards.

    Args:
        module: its float32 parameters become views.
        groups: parameters that shall lie side by side; those of no group follow behind.

    Raises:
        ValueError: groups have a parameter in common.
    """

    def __init__(self, module: nn.Module, groups: Sequence[Sequence[nn.Parameter]] = ()) -> None:
        self._module = module
        grouped = [parameter for group in groups for parameter in group]
        if len({id(parameter) for parameter in grouped}) != len(grouped):
            raise ValueError("a parameter belongs to two groups: which optimizer is to step it?")
        known = {id(parameter) for parameter in grouped}
        rest = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
        ordered = [*grouped, *rest]
        self.values = torch.cat([parameter.detach().reshape(-1) for parameter in ordered])
        """float32 [P]: every parameter."""
        self.groups = [slice(0, 0)] * len(groups)
        """Where each group lies in `values`."""
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._places: dict[str, tuple[int, torch.Size]] = {}
        start = 0
        for parameter in ordered:
            end = start + parameter.numel()
            parameter.data = self.values[start:end].view_as(parameter)
            self._places[names[id(parameter)]] = start, parameter.shape
            start = end
        start = 0
        for index, group in enumerate(groups):
            end = start + sum(parameter.numel() for parameter in group)
            self.groups[index] = slice(start, end)
            start = end

    def weights(self) -> dict[str, Array]:
        """A copy of the module's tensors in host memory, by name: one copy, and views of it.

        Buffers that belong to the weights, such as running statistics, are among them.
        """
        flat = self.values.to("cpu", copy=True).numpy()
        held: dict[str, Array] = {
            name: flat[start : start + shape.numel()].reshape(shape)
            for name, (start, shape) in self._places.items()
        }
        for name, tensor in self._buffers.items():
            held[name] = tensor.to("cpu", copy=True).numpy()
        return held

    def load_weights(self, tensors: Mapping[str, Array]) -> None:
        """Take the module's tensors, whole or not at all.

        Raises:
            TroupeError: a tensor is missing, unknown or of another shape.
        """
        trained = dict(self._module.named_parameters())
        own = {name: trained[name].detach() for name in self._places} | self._buffers
        check_weights(tensors, {name: tuple(tensor.shape) for name, tensor in own.items()})
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(torch.from_numpy(np.array(tensors[name])))

    @cached_property
    def _buffers(self) -> dict[str, Tensor]:
        return buffers(self._module)


def check_weights(tensors: Mapping[str, Array], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """See that tensors are those that a network has, by name and shape.

    Raises:
        TroupeError: one is missing, unknown or of another shape.
    """
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != given:
        name = next(n for n in {**wanted, **given} if wanted.get(n) != given.get(n))
        raise TroupeError(
            f"weights: {name} is {given.get(name)}, this network has {wanted.get(name)}"
        )


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """By name, what belongs to the weights and is no parameter, nor another name for one."""
    known = {id(parameter) for parameter in module.parameters()}
    whole = module.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in whole.items() if id(tensor) not in known}
