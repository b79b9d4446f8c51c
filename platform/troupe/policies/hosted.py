"""Linear layers in host memory that can be learned: numpy's arithmetic in one step of PyTorch's autograd.

On one core of a CPU this takes a third to a half of the time of PyTorch's own operations, whose cost
is mostly their number where layers are small, and MKL on processors that it was not made for where
they are large. Results are the same but for rounding. numpy is to have one thread too, as the
launcher sees to: where cores are busy, its threads wait for one another.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

Activation = Literal["relu", "tanh"]

Layers = list[tuple[Tensor, Tensor, Activation | None]]
"""Weight [outputs, inputs], bias [outputs] and what follows, first to last."""

_Floats = NDArray[np.float32]


def fits(x: Tensor) -> bool:
    """Whether `apply_layers` takes such inputs, and is the fastest: on one thread of a CPU, in float32."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.get_num_threads() == 1
        and not torch.is_autocast_enabled("cpu")
    )


def apply_layers(x: Tensor, layers: Layers) -> Tensor:
    """float32 [S, inputs] -> [S, outputs], once differentiable in inputs and parameters."""
    parameters = [tensor for weight, bias, _ in layers for tensor in (weight, bias)]
    activations = [activation for *_, activation in layers]
    result: Tensor = _Layers.apply(x, activations, *parameters)  # type: ignore[no-untyped-call]
    return result


class _Layers(torch.autograd.Function):
    """All layers as one operation."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, activations: Sequence[Activation | None], *parameters: Tensor
    ) -> Tensor:
        arrays: list[_Floats] = [parameter.detach().numpy() for parameter in parameters]
        passed: list[_Floats] = [x.detach().numpy()]
        for weight, bias, activation in zip(arrays[::2], arrays[1::2], activations, strict=True):
            y = passed[-1].dot(weight.T)
            y += bias
            if activation == "tanh":
                np.tanh(y, out=y)
            elif activation == "relu":
                np.maximum(y, 0.0, out=y)
            passed.append(y)
        ctx.passed, ctx.weights, ctx.activations = passed, arrays[::2], activations
        return torch.from_numpy(passed[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        error: _Floats = gradient.numpy()
        of_inputs, _, *of_parameters = ctx.needs_input_grad
        gradients: list[Tensor | None] = []
        for layer in reversed(range(len(ctx.weights))):
            error = _before(error, ctx.passed[layer + 1], ctx.activations[layer])
            weight, bias = of_parameters[2 * layer : 2 * layer + 2]
            gradients.append(torch.from_numpy(error.sum(axis=0)) if bias else None)
            gradients.append(torch.from_numpy(error.T.dot(ctx.passed[layer])) if weight else None)
            if layer or of_inputs:
                error = error.dot(ctx.weights[layer])
        return torch.from_numpy(error) if of_inputs else None, None, *reversed(gradients)


def _before(error: _Floats, y: _Floats, activation: Activation | None) -> _Floats:
    """float32 [S, outputs]: the gradient before an activation, of that behind it, where it gave `y`."""
    if activation == "tanh":
        slope = y * y
        np.subtract(1.0, slope, out=slope)
        slope *= error
        return slope
    return error * (y > 0.0) if activation == "relu" else error
