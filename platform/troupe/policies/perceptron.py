"""Stacks of linear layers: on tensors for whoever learns, on numpy arrays for whoever acts.

A forward of a few rows is all overhead: PyTorch's is eight times that of numpy.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from troupe.policies import hosted
from troupe.policies.hosted import Activation, Layers


class Perceptron(nn.Module):
    """Hidden layers and, unless there are none, outputs without an activation."""

    def __init__(
        self, inputs: int, hidden: int, layers: int, outputs: int, activation: Activation
    ) -> None:
        """`layers` counts the hidden ones; with no `outputs` the last of them is the end."""
        super().__init__()
        widths = [inputs] + [hidden] * layers + ([outputs] if outputs else [])
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.width = widths[-1]
        """Of what comes out."""
        self._activations = [activation] * layers + ([None] if outputs else [])

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def apply_to(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """[S, inputs] -> [S, width], outputs in float32; `frozen` parameters get no gradient, `x` does."""
        layers = self.laid_out()
        if frozen:
            layers = [(weight.detach(), bias.detach(), then) for weight, bias, then in layers]
        if hosted.fits(x):
            return hosted.apply_layers(x, layers)
        for weight, bias, activation in layers:
            if activation is None:
                x = _in_float32(x, weight, bias)
            else:
                x = F.linear(x, weight, bias)
                x = torch.tanh(x) if activation == "tanh" else F.relu(x)
        return x

    def laid_out(self) -> Layers:
        """Its layers, first to last."""
        pairs = zip(self.linear, self._activations, strict=True)
        return [(layer.weight, layer.bias, activation) for layer, activation in pairs]


class HostLayers:
    """The same layers on numpy arrays."""

    def __init__(self, layers: Layers) -> None:
        self._layers = [
            (
                np.ascontiguousarray(weight.detach().cpu().numpy().T),
                bias.detach().cpu().numpy().copy(),
                activation,
            )
            for weight, bias, activation in layers
        ]

    def apply_to(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [B, inputs] -> float32 [B, outputs]."""
        for weight, bias, activation in self._layers:
            x = x.dot(weight)  # less ado than @
            x += bias
            if activation == "tanh":
                np.tanh(x, out=x)
            elif activation == "relu":
                np.maximum(x, 0.0, out=x)
        return x


def initialise_orthogonally(module: nn.Module, gains: Mapping[nn.Module, float]) -> None:
    """Orthogonal weights, biases 0: with the gains given, sqrt 2 for other layers, 1 in an LSTM.

    As item 2 of "The 37 Implementation Details of PPO" (Huang et al., 2022) has it.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(part.weight, gains.get(part, 2.0**0.5))
            assert part.bias is not None
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LSTM):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.orthogonal_(parameter)
                else:
                    nn.init.zeros_(parameter)


def _in_float32(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer whose result half precision would round too much."""
    if not torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weight, bias)
