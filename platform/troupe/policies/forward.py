"""One decision for many rows in host memory, by whatever is fastest for the network: `Forward`."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from troupe.episodes import Array, Columns
from troupe.policies.hosted import Layers
from troupe.policies.inputs import HostInputs, Inputs
from troupe.policies.perceptron import HostLayers


class Network(Protocol):
    """A policy as it acts, a `torch.nn.Module`."""

    inputs: Inputs

    def outputs(
        self, observation: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, outputs] and the state after, of raw observations [B, ...] and the state before."""
        ...

    def laid_out(self) -> Layers | None:
        """The layers from features to outputs, if they are nothing but linear and activations."""
        ...


class Forward(Protocol):
    """A network's outputs for observations in host memory."""

    def __call__(
        self, observation: Columns, state: Columns
    ) -> tuple[NDArray[np.float32], dict[str, Array]]:
        """float32 [B, outputs], the caller's to change, and the state after."""
        ...


def forward_of(network: Network, device: torch.device) -> Forward:
    """The fastest forward of a network with the weights that it has now, on `device` already.

    numpy for small networks on the CPU, where PyTorch would mostly be busy with itself.
    """
    layers = network.laid_out() if device.type == "cpu" else None
    return TorchForward(network, device) if layers is None else HostForward(network, layers)


class HostForward:
    """`Forward` in numpy."""

    def __init__(self, network: Network, layers: Layers) -> None:
        self._inputs = HostInputs(network.inputs)
        self._layers = HostLayers(layers)

    def __call__(
        self, observation: Columns, state: Columns
    ) -> tuple[NDArray[np.float32], dict[str, Array]]:
        return self._layers.apply_to(self._inputs.features(observation)), {}


class TorchForward:
    """`Forward` in PyTorch, on any device."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self._network = network
        self._device = device

    def __call__(
        self, observation: Columns, state: Columns
    ) -> tuple[NDArray[np.float32], dict[str, Array]]:
        with torch.inference_mode():
            outputs, after = self._network.outputs(self._sent(observation), self._sent(state))
            held: NDArray[np.float32] = outputs.cpu().numpy()
            return held, {name: tensor.cpu().numpy() for name, tensor in after.items()}

    def _sent(self, columns: Columns) -> dict[str, Tensor]:
        return {name: torch.from_numpy(c).to(self._device) for name, c in columns.items()}
