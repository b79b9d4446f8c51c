"""Optimizers over one flat buffer: a step, a norm or a copy is one operation, however many parameters."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, Protocol

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


class Optimizer(Protocol):
    """Steps the parameters of a group, however they lie. All ranks call its methods at the same time."""

    torch_optimizer: torch.optim.Optimizer

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        ...

    def forget(self) -> None:
        """Be as it was before the first step, but for the parameters."""
        ...

    def anneal(self, progress: float) -> None:
        """Set the learning rate to its value after a share of the run, linearly from full to 0."""
        ...

    def clip_grad_norm(self, limit: float | None) -> Tensor:
        """Scale the gradient down to an L2 norm of at most `limit`; the norm it had, a scalar.

        Does not wait for the device.
        """
        ...

    def step(self) -> None:
        """Move the parameters along their gradients."""
        ...

    def state(self) -> dict[str, Array]:
        """A copy of the optimizer's tensors in host memory, by name; none before the first step.

        Each is a scalar, or has a value for each of the P parameters, in the order of the group.
        """
        ...

    def load_state(self, tensors: Mapping[str, Array]) -> None:
        """Take what `state` gave.

        Raises:
            TroupeError: a tensor does not fit the parameters, or is not there.
        """
        ...


class FlatOptimizer:
    """Steps parameters that lie side by side, with their gradients in one flat buffer too.

    Gradients must be cleared with `zero_grad` here.

    Args:
        parameters: views of `values`, in order and without gaps.
        values: float32 [P]: all of them, see `FlatModule`.
        settings: of the optimizer.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], values: Tensor, settings: OptimizerSettings
    ) -> None:
        self._flat = nn.Parameter(values)
        self.grad = torch.zeros_like(values)
        """float32 [P]: every gradient."""
        self._flat.grad = self.grad
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.grad = self.grad[start:end].view_as(parameter)
            start = end
        self.torch_optimizer = create([self._flat], settings)
        self._bare_step = _bare_step(self.torch_optimizer)
        self._settings = settings

    def zero_grad(self) -> None:
        """See `Optimizer`; in place."""
        self.grad.zero_()

    def forget(self) -> None:
        """See `Optimizer`."""
        self.torch_optimizer.state.clear()

    def anneal(self, progress: float) -> None:
        """See `Optimizer`."""
        anneal(self.torch_optimizer, self._settings, progress)

    def clip_grad_norm(self, limit: float | None) -> Tensor:
        """See `Optimizer`."""
        norm: Tensor = torch.linalg.vector_norm(self.grad)
        if limit is not None:
            self.grad.div_((norm / limit).clamp_(min=1.0))
        return norm

    def step(self) -> None:
        """See `Optimizer`."""
        self._bare_step()

    def state(self) -> dict[str, Array]:
        """See `Optimizer`."""
        held = self.torch_optimizer.state[self._flat]
        return {name: tensor.detach().to("cpu", copy=True).numpy() for name, tensor in held.items()}

    def load_state(self, tensors: Mapping[str, Array]) -> None:
        """See `Optimizer`."""
        check_state(tensors, self._settings, self._flat.numel())
        held = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
        put_state(self.torch_optimizer, [held])


def anneal(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, progress: float) -> None:
    """Set the learning rate to its value after a share of the run, linearly from full to 0."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * (1.0 - progress)


def check_state(tensors: Mapping[str, Array], settings: OptimizerSettings, parameters: int) -> None:
    """See that what an optimizer gave fits another one, of so many parameters.

    Raises:
        TroupeError: a tensor does not, or is not there.
    """
    missing = sorted(_state_names(settings) - tensors.keys()) if tensors else []
    if missing:
        raise TroupeError(f"optimizer: {', '.join(missing)} was not saved by the one before")
    for name, tensor in tensors.items():
        if tensor.size not in (1, parameters):
            raise TroupeError(
                f"optimizer: {name} has {tensor.size} values for {parameters} parameters"
            )


def put_state(optimizer: torch.optim.Optimizer, held: Sequence[Mapping[str, Tensor]]) -> None:
    """Give an optimizer the state of each of its parameters, by name."""
    groups = optimizer.state_dict()["param_groups"]
    state = {index: dict(of) for index, of in enumerate(held)}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _state_names(settings: OptimizerSettings) -> frozenset[str]:
    """What such an optimizer keeps once it has made a step."""
    probe = nn.Parameter(torch.zeros(1))
    probe.grad = torch.zeros(1)
    optimizer = create([probe], settings)
    _bare_step(optimizer)()
    return frozenset(optimizer.state[probe])


def _bare_step(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """Its step without what a profiler and a compiler would want to know, which takes longer than the
    step of a small network."""
    return torch.no_grad()(partial(inspect.unwrap(type(optimizer).step), optimizer))


def create(parameters: Sequence[nn.Parameter], s: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer of PyTorch that settings name."""
    _spare_compiler()
    decay = s.weight_decay
    match s.name:
        case "sgd":
            return torch.optim.SGD(
                parameters, s.lr, momentum=s.momentum or 0.0, weight_decay=decay or 0.0, fused=True
            )
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters,
                s.lr,
                alpha=0.99 if s.alpha is None else s.alpha,
                eps=s.eps or 1e-5,
                momentum=s.momentum or 0.0,
                weight_decay=decay or 0.0,
                foreach=False,
            )
        case "adam":
            return torch.optim.Adam(
                parameters,
                s.lr,
                betas=s.betas or (0.9, 0.999),
                eps=s.eps or 1e-8,
                weight_decay=decay or 0.0,
                fused=True,
            )
        case "adamw":
            return torch.optim.AdamW(
                parameters,
                s.lr,
                betas=s.betas or (0.9, 0.999),
                eps=s.eps or 1e-8,
                weight_decay=0.01 if decay is None else decay,
                fused=True,
            )


def _spare_compiler() -> None:
    """Keep PyTorch's optimizers from importing its compiler: a second, and 70 MB for good.

    They would ask it never to compile certain methods of theirs, and remember its answer there.
    """
    for method in vars(torch.optim.Optimizer).values():
        plain = inspect.unwrap(method) if inspect.isfunction(method) else method
        if plain is not method:
            vars(plain).setdefault("__dynamo_disable", plain)
