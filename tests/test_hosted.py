"""Layers as one operation in numpy, against the same layers in PyTorch's own operations."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from troupe.policies import hosted
from troupe.policies.perceptron import Perceptron


def plainly(layers: hosted.Layers, x: Tensor) -> Tensor:
    functions: dict[str | None, Callable[[Tensor], Tensor]] = {
        "tanh": torch.tanh,
        "relu": torch.relu,
        None: lambda y: y,
    }
    for weight, bias, activation in layers:
        x = functions[activation](x @ weight.T + bias)
    return x


def made(activation: Literal["tanh", "relu"], outputs: int) -> Perceptron:
    torch.manual_seed(3)
    return Perceptron(7, 24, 2, outputs, activation)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("outputs", [0, 3])
@pytest.mark.parametrize("steps", [1, 40])
def test_values_and_gradients_are_pytorchs_but_for_rounding(
    activation: Literal["tanh", "relu"], outputs: int, steps: int
) -> None:
    perceptron = made(activation, outputs)
    x = torch.randn(7, steps).T.requires_grad_()  # not contiguous
    assert hosted.fits(x)
    ours, theirs = perceptron.apply_to(x), plainly(perceptron.laid_out(), x)
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    inputs = [x, *perceptron.parameters()]
    along = torch.randn_like(ours)
    for own, other in zip(
        torch.autograd.grad(ours, inputs, along),
        torch.autograd.grad(theirs, inputs, along),
        strict=True,
    ):
        assert torch.allclose(own, other, rtol=1e-4, atol=1e-5)


def test_the_same_inputs_give_the_same_to_the_bit() -> None:
    perceptron = made("tanh", 2)
    x = torch.randn(41, 7)

    def gradients() -> list[Tensor]:
        value = perceptron.apply_to(x.clone()).square().sum()
        return list(torch.autograd.grad(value, list(perceptron.parameters())))

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)


def test_frozen_layers_pass_the_gradient_of_their_inputs_on() -> None:
    perceptron = made("relu", 1)
    x = torch.randn(5, 7, requires_grad=True)
    perceptron.apply_to(x, frozen=True).sum().backward()
    (wanted,) = torch.autograd.grad(plainly(perceptron.laid_out(), x).sum(), x)
    assert x.grad is not None
    assert torch.allclose(x.grad, wanted, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in perceptron.parameters())


def test_several_threads_and_half_precision_are_pytorchs() -> None:
    x = torch.randn(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert not hosted.fits(x)
    assert not hosted.fits(x.double())
    torch.set_num_threads(2)
    try:
        assert not hosted.fits(x)
    finally:
        torch.set_num_threads(1)
