"""The one update loop: minibatches, micro-batches, accumulation, clipping and stepping."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from troupe_learners.algorithms import Algorithm, Batch, Totals
from troupe_learners.optim import FlatOptimizer
from troupe_learners.precision import Precision


class Evaluating(Protocol):
    """The learner's side of a policy."""

    def evaluate(self, observation: Mapping[str, Tensor], action: Tensor) -> Tensor:
        """[S], differentiable: what the policy says of the action taken at each of S steps."""
        ...


class Update:
    """Trains one policy with one algorithm."""

    def __init__(
        self,
        policy: Evaluating,
        algorithm: Algorithm,
        optimizer: FlatOptimizer,
        precision: Precision,
        random: np.random.Generator,
    ) -> None:
        self._policy = policy
        self._algorithm = algorithm
        self._optimizer = optimizer
        self._precision = precision
        self._random = random

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Train on a batch as the algorithm's plan says.

        Returns:
            Scalars on the device, means over the optimizer steps: `loss`, `grad_norm` before
            clipping, and the algorithm's own. Nothing waits for the device.
        """
        with torch.no_grad():
            batch = self._algorithm.prepare(batch)
        plan = self._algorithm.plan
        steps = [self._step(part) for part in minibatches(batch, plan, self._random)]
        return {name: torch.stack([step[name] for step in steps]).mean() for name in steps[0]}

    def _step(self, minibatch: Batch) -> dict[str, Tensor]:
        """One optimizer step. Micro-batches share the minibatch's denominators, so they add up."""
        totals = Totals(steps=minibatch.steps)
        sums: dict[str, Tensor] = {}
        self._optimizer.zero_grad()
        for part in split(minibatch, self._algorithm.plan.micro_batch):
            with self._precision.autocast():
                outputs = self._policy.evaluate(part.observation, _only(part.action))
            loss = self._algorithm.loss(outputs.float(), part, totals)
            self._precision.backward(loss.total)
            for name, value in {"loss": loss.total.detach(), **loss.metrics}.items():
                sums[name] = sums[name] + value if name in sums else value
        norm = self._precision.step(self._optimizer, self._algorithm.plan.max_grad_norm)
        return {**sums, "grad_norm": norm}


def minibatches(batch: Batch, plan: "_Sizes", random: np.random.Generator) -> Iterator[Batch]:
    """What each optimizer step of a batch is made of; every step of it once per epoch."""
    size = plan.minibatch or batch.steps
    for _ in range(plan.epochs):
        if size >= batch.steps:
            yield batch
            continue
        device = next(iter(batch.step.values())).device
        order = torch.from_numpy(random.permutation(batch.steps)).to(device)
        for rows in torch.split(order, size):
            yield batch[rows]


def split(minibatch: Batch, limit: int | None) -> Iterator[Batch]:
    """A minibatch in parts of at most `limit` steps, as even as can be; in one part without."""
    parts = -(-minibatch.steps // limit) if limit else 1
    if parts == 1:
        yield minibatch
        return
    bounds = [minibatch.steps * part // parts for part in range(parts + 1)]
    for start, end in itertools.pairwise(bounds):
        yield minibatch[start:end]


class _Sizes(Protocol):
    @property
    def epochs(self) -> int: ...
    @property
    def minibatch(self) -> int | None: ...


def _only(columns: Mapping[str, Tensor]) -> Tensor:
    (column,) = columns.values()
    return column
