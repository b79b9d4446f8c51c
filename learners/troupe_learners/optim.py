"""Optimizers over one flat buffer: a step, a norm or a copy is one operation, however many parameters."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from troupe.config import config
from troupe.episodes import Array
from troupe.errors import TroupeError

Factor = Annotated[float, Field(ge=0, lt=1)]


@config
class OptimizerSettings:
    """An optimizer by name, with the options it has; those left out take the values named here."""

    name: Literal["sgd", "rmsprop", "adam", "adamw"]
    lr: Annotated[float, Field(gt=0)]
    """Learning rate."""
    momentum: Factor | None = None
    """sgd, rmsprop: 0."""
    alpha: Factor | None = None
    """rmsprop: 0.99, how slowly the mean of squared gradients moves."""
    betas: tuple[Factor, Factor] | None = None
    """adam, adamw: (0.9, 0.999)."""
    eps: Annotated[float, Field(gt=0)] | None = None
    """rmsprop: 1e-5; adam, adamw: 1e-8."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """sgd, rmsprop, adam: 0, added to the gradient; adamw: 0.01, decoupled."""

    @model_validator(mode="after")
    def _refuse_options_of_others(self) -> "OptimizerSettings":
        for option in ("momentum", "alpha", "betas", "eps", "weight_decay"):
            if getattr(self, option) is not None and option not in _OPTIONS[self.name]:
                known = ", ".join(("lr", *_OPTIONS[self.name]))
                raise ValueError(f"{self.name} has no option {option}; it has {known}")
        return self


_OPTIONS = {
    "sgd": ("momentum", "weight_decay"),
    "rmsprop": ("momentum", "alpha", "eps", "weight_decay"),
    "adam": ("betas", "eps", "weight_decay"),
    "adamw": ("betas", "eps", "weight_decay"),
}


class FlatOptimizer:
    """Steps every parameter of a module at once.

    The module's parameters and their gradients become views of two flat buffers, so gradients
    must be cleared with `zero_grad` here, and the module must not be moved afterwards.
    """

    def __init__(self, module: nn.Module, settings: OptimizerSettings) -> None:
        self._module = module
        self._flat = _flatten(list(module.parameters()))
        self.torch_optimizer = _create(self._flat, settings)
        self._needed = _state_names(settings)

    @property
    def grad(self) -> Tensor:
        """Every gradient, flat [P]."""
        assert self._flat.grad is not None
        return self._flat.grad

    def zero_grad(self) -> None:
        """Set every gradient to zero, in place."""
        self.grad.zero_()

    def clip_grad_norm(self, limit: float) -> Tensor:
        """Scale the gradient down to an L2 norm of at most `limit`; the norm it had, a scalar.

        Does not wait for the device.
        """
        norm: Tensor = torch.linalg.vector_norm(self.grad)
        self.grad.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def weights(self) -> dict[str, Array]:
        """A copy of the module's tensors in host memory, by name: one copy, and views of it."""
        flat = self._flat.detach().to("cpu", copy=True).numpy()
        held: dict[str, Array] = {}
        start = 0
        for name, parameter in self._module.named_parameters():
            held[name] = flat[start : start + parameter.numel()].reshape(parameter.shape)
            start += parameter.numel()
        for name, tensor in self._module.state_dict().items():
            if name not in held:  # a buffer that belongs to the weights
                held[name] = tensor.to("cpu", copy=True).numpy()
        return held

    def load_weights(self, tensors: Mapping[str, Array]) -> None:
        """Take the module's tensors, whole or not at all.

        Raises:
            TroupeError: a tensor is missing, unknown or of another shape.
        """
        own = self._module.state_dict()
        wanted = {name: tuple(tensor.shape) for name, tensor in own.items()}
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if wanted != given:
            name = next(n for n in {**wanted, **given} if wanted.get(n) != given.get(n))
            raise TroupeError(
                f"weights: {name} is {given.get(name)}, this network has {wanted.get(name)}"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(torch.from_numpy(np.array(tensors[name])))

    def state(self) -> dict[str, Array]:
        """A copy of the optimizer's tensors in host memory, by name; none before the first step."""
        held = self.torch_optimizer.state[self._flat]
        return {name: tensor.detach().to("cpu", copy=True).numpy() for name, tensor in held.items()}

    def load_state(self, tensors: Mapping[str, Array]) -> None:
        """Take what `state` gave.

        Raises:
            TroupeError: a tensor does not fit the parameters, or is not there.
        """
        missing = sorted(self._needed - tensors.keys()) if tensors else []
        if missing:
            raise TroupeError(f"optimizer: {', '.join(missing)} was not saved by the one before")
        for name, tensor in tensors.items():
            if tensor.size not in (1, self._flat.numel()):
                raise TroupeError(
                    f"optimizer: {name} has {tensor.size} values for {self._flat.numel()} parameters"
                )
        group = {"state": {0: {n: torch.from_numpy(np.array(t)) for n, t in tensors.items()}}}
        groups = self.torch_optimizer.state_dict()["param_groups"]
        self.torch_optimizer.load_state_dict({**group, "param_groups": groups})


def _flatten(parameters: list[nn.Parameter]) -> nn.Parameter:
    """Move parameters and their gradients into one flat buffer each; a parameter over it."""
    values = torch.cat([p.detach().reshape(-1) for p in parameters])
    flat = nn.Parameter(values)
    flat.grad = torch.zeros_like(values)
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        parameter.data = values[start:end].view_as(parameter)
        parameter.grad = flat.grad[start:end].view_as(parameter)
        start = end
    return flat


def _state_names(settings: OptimizerSettings) -> frozenset[str]:
    """What such an optimizer keeps once it has made a step."""
    probe = nn.Parameter(torch.zeros(1))
    probe.grad = torch.zeros(1)
    optimizer = _create(probe, settings)
    optimizer.step()
    return frozenset(optimizer.state[probe])


def _create(flat: nn.Parameter, s: OptimizerSettings) -> torch.optim.Optimizer:
    decay = s.weight_decay
    match s.name:
        case "sgd":
            return torch.optim.SGD(
                [flat], s.lr, momentum=s.momentum or 0.0, weight_decay=decay or 0.0, fused=True
            )
        case "rmsprop":
            return torch.optim.RMSprop(
                [flat],
                s.lr,
                alpha=0.99 if s.alpha is None else s.alpha,
                eps=s.eps or 1e-5,
                momentum=s.momentum or 0.0,
                weight_decay=decay or 0.0,
            )
        case "adam":
            return torch.optim.Adam(
                [flat],
                s.lr,
                betas=s.betas or (0.9, 0.999),
                eps=s.eps or 1e-8,
                weight_decay=decay or 0.0,
                fused=True,
            )
        case "adamw":
            return torch.optim.AdamW(
                [flat],
                s.lr,
                betas=s.betas or (0.9, 0.999),
                eps=s.eps or 1e-8,
                weight_decay=0.01 if decay is None else decay,
                fused=True,
            )
