"""Algorithms: one file each, found by its name. The update loop (`update.py`) is the same for all.

A file offers `Config`, a settings class, and `Algorithm`, made from one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from troupe.config import parse
from troupe.episodes import Columns, Episodes
from troupe.errors import UserError
from troupe.plugins import find
from troupe_learners.optim import OptimizerSettings

OBSERVATION = "observation."
ACTION = "action."
"""Prefixes of column names in a ring; per-step columns have none."""
VERSION = "version"


@dataclass(frozen=True, slots=True)
class Batch:
    """S steps on the learner's device, laid end to end."""

    observation: Mapping[str, Tensor]
    """By name, [S, ...]."""
    action: Mapping[str, Tensor]
    """By name, [S, ...]."""
    step: Mapping[str, Tensor]
    """By name, [S]: `version`, and what `Algorithm.credit` and `Algorithm.prepare` computed."""

    @classmethod
    def on(cls, device: torch.device, columns: Columns) -> "Batch":
        """Move a ring's columns to a device; does not wait for the copies."""
        tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
        if device.type == "cuda":
            tensors = {
                name: tensor.pin_memory().to(device, non_blocking=True)
                for name, tensor in tensors.items()
            }
        return cls(
            observation=_strip(OBSERVATION, tensors),
            action=_strip(ACTION, tensors),
            step={name: tensor for name, tensor in tensors.items() if "." not in name},
        )

    @property
    def steps(self) -> int:
        """S."""
        return next(iter(self.step.values())).shape[0]

    def __getitem__(self, rows: slice | Tensor) -> "Batch":
        """The same columns of some of the steps."""
        return Batch(
            observation={name: tensor[rows] for name, tensor in self.observation.items()},
            action={name: tensor[rows] for name, tensor in self.action.items()},
            step={name: tensor[rows] for name, tensor in self.step.items()},
        )

    def with_steps(self, columns: Mapping[str, Tensor]) -> "Batch":
        """The batch with further per-step columns."""
        return replace(self, step={**self.step, **columns})


def rows_of(block: Episodes, credit: Columns) -> Columns:
    """A block's columns as a ring keeps them: what the policy reads, and what was credited."""
    return {
        **{OBSERVATION + name: column for name, column in block.observation.items()},
        **{ACTION + name: column for name, column in block.action.items()},
        VERSION: block.version.astype(np.int64),
        **credit,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How an algorithm wants to be run."""

    batch: int
    """Steps that are prepared together, and trained on in every epoch."""
    epochs: int = 1
    minibatch: int | None = None
    """Steps per optimizer step, drawn in random order; none is the whole batch, in order."""
    micro_batch: int | None = None
    """Steps that pass through the network at once; bounds memory and changes no result."""
    max_grad_norm: float


class Totals(NamedTuple):
    """Denominators of one optimizer step, over all its micro-batches."""

    steps: int


class Loss(NamedTuple):
    """What one micro-batch contributes; contributions are summed."""

    total: Tensor
    """Scalar, differentiable."""
    metrics: Mapping[str, Tensor]
    """Scalars to look at, by name."""


class Algorithm(Protocol):
    """What is learned from a batch. It does not own the loop."""

    plan: Plan
    optimizer: OptimizerSettings

    def credit(self, block: Episodes) -> Columns:
        """Per-step columns [S] that need whole fragments; once per block, in host memory.

        Raises:
            TroupeError: the algorithm cannot learn from such a block.
        """
        ...

    def prepare(self, batch: Batch) -> Batch:
        """Add per-step columns that need the whole batch; once per batch, without gradients."""
        ...

    def loss(self, outputs: Tensor, minibatch: Batch, totals: Totals) -> Loss:
        """This micro-batch's share of the loss.

        Args:
            outputs: float32 [S], what `policy.evaluate` gave.
            minibatch: the S steps.
            totals: denominators of the whole minibatch.
        """
        ...


def load(options: Mapping[str, object]) -> Algorithm:
    """The algorithm of a job: `options` has its `name` and the options of its `Config`.

    Raises:
        UserError: there is no such algorithm, or an option is wrong.
    """
    settings = dict(options)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise UserError("algorithm.name: missing; an algorithm such as deep_monte_carlo")
    module = find("troupe_learners", name, "algorithm.name")
    if not (hasattr(module, "Config") and hasattr(module, "Algorithm")):
        raise UserError(f"algorithm.name: {name!r} is no algorithm: it has no Config and Algorithm")
    algorithm: Algorithm = module.Algorithm(parse(module.Config, settings, "algorithm"))
    return algorithm


def _strip(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
