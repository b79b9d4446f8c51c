"""The one update loop: epochs, minibatches, micro-batches, accumulation, clipping and stepping."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from troupe.policies import Policy
from troupe_learners import batches
from troupe_learners.advantages import moments, normalise
from troupe_learners.algorithms import Adaptive, Algorithm, Batch, Group, Plan, Roles, Totals
from troupe_learners.exchange import Copies, Exchange
from troupe_learners.optim import Optimizer
from troupe_learners.precision import Precision
from troupe_learners.ranks import Ranks
from troupe_learners.scalars import Scalars
from troupe_learners.target import TargetNetwork


class Learning(NamedTuple):
    """What an update works with; all of it moves as it goes."""

    policy: Policy
    target: TargetNetwork | None
    optimizers: Mapping[str, Optimizer]
    """By group."""
    precision: Precision
    shuffle: np.random.Generator
    """Orders steps and draws from replay."""
    random: torch.Generator
    """For the algorithm."""


class Update:
    """Trains one policy with one algorithm."""

    def __init__(
        self,
        algorithm: Algorithm,
        learning: Learning,
        ranks: Ranks,
        exchange: Exchange | None = None,
    ) -> None:
        """`exchange`: how ranks come by one gradient; none is `Copies`."""
        self.steps = 0
        """Optimizer steps that were made."""
        self._algorithm = algorithm
        self._plan = algorithm.plan
        self._learning = learning
        self._ranks = ranks
        self._exchange = Copies(ranks) if exchange is None else exchange

    def on_batch(self, batch: Batch, progress: float) -> dict[str, float]:
        """Train on a batch as the algorithm's plan says.

        Args:
            batch: of this rank.
            progress: how much of the run is done, 0 to 1.

        Returns:
            Means over the optimizer steps: `loss` and `grad_norm` (before clipping), or
            `GROUP_loss` and `GROUP_grad_norm` where only some parameters are trained; and the
            algorithm's own.
        """
        scalars = Scalars()
        roles, autocast = self._begin(progress), self._learning.precision.autocast
        # As finely as it is trained, so that what a batch begins with is what its loss sees.
        with torch.no_grad(), autocast():
            batch = self._algorithm.prepare(batch, roles)
        self._epochs(batch, scalars)
        if isinstance(self._algorithm, Adaptive):
            with torch.no_grad(), autocast():
                looks = self._algorithm.after(batch, roles)
            scalars.add_all({name: look / self._ranks.size for name, look in looks.items()})
        return scalars.means(self._ranks)

    def on_samples(
        self,
        sample: Callable[[int, np.random.Generator, float], Batch],
        rate: Callable[[Batch, Tensor], None],
        count: int,
        progress: float,
    ) -> dict[str, float]:
        """Make `count` optimizer steps on samples from replay; returns as `on_batch`.

        Args:
            sample: draws so many steps.
            rate: takes the size of the error of each step of a sample.
            count: how many samples.
            progress: how much of the run is done, 0 to 1.
        """
        replay = self._plan.replay
        assert replay is not None
        scalars = Scalars()
        roles = self._begin(progress)
        for _ in range(count):
            batch = sample(self._ranks.share(replay.batch), self._learning.shuffle, progress)
            with torch.no_grad():
                batch = self._algorithm.prepare(batch, roles)
            _, priority = self._step(batch, Totals(replay.batch), scalars)
            if priority is not None:
                rate(batch, priority)
        return scalars.means(self._ranks)

    def _begin(self, progress: float) -> Roles:
        if self._plan.anneal:
            for optimizer in self._learning.optimizers.values():
                optimizer.anneal(progress)
        if self._plan.afresh:
            for optimizer in self._learning.optimizers.values():
                optimizer.forget()
        policy, target = self._learning.policy, self._learning.target
        return Roles(
            policy=policy,
            target=policy if target is None else target.policy,
            progress=progress,
            add_up=self._ranks.add_up,
            random=self._learning.random,
            passes=self._exchange.passes,
        )

    def _epochs(self, batch: Batch, scalars: Scalars) -> None:
        for _ in range(self._plan.epochs):
            for minibatch in self._minibatches(batch):
                goes_on, _ = self._step(*self._counted(minibatch), scalars)
                if not goes_on:
                    return

    def _minibatches(self, batch: Batch) -> Iterator[Batch]:
        """An epoch of this rank's steps, in as many parts as on every other rank."""
        parts = parts_of(self._plan, self._ranks.total(batch.steps))
        if self._by_fragments(batch):
            together, shuffle = self._plan.together or bool(batch.context), self._learning.shuffle
            parts = min(parts, self._ranks.least(batches.units(batch, together=together)))
            return batches.shuffled_fragments(batch, parts, shuffle, together=together)
        parts = min(parts, self._ranks.least(batch.steps))
        return batches.shuffled(batch, parts, self._learning.shuffle)

    def _counted(self, minibatch: Batch) -> tuple[Batch, Totals]:
        """A minibatch, normalised as the plan says, and the denominators of all ranks."""
        total = self._ranks.total(minibatch.steps)
        if (name := self._plan.normalise) is not None:
            minibatch = minibatch.with_steps({name: self._normalised(minibatch.step[name])})
        if not self._by_fragments(minibatch):
            return minibatch, Totals(total)
        return minibatch, Totals(total, self._ranks.total(len(minibatch.fragment["length"])))

    def _normalised(self, column: Tensor) -> Tensor:
        """Of mean 0 and deviation 1 over all ranks; in a third of the time where there is but one."""
        if self._ranks.size > 1 or len(column) == 1:
            return normalise(column, self._ranks.add_up(moments(column)))
        deviation, mean = torch.std_mean(column)
        return (column - mean) / (deviation + 1e-8)

    def _by_fragments(self, batch: Batch) -> bool:
        return self._plan.segments or self._plan.together or batch.whole

    def _step(
        self, minibatch: Batch, totals: Totals, scalars: Scalars
    ) -> tuple[bool, Tensor | None]:
        """One optimizer step of every group whose turn it is.

        Returns:
            Whether the batch is to be gone on with, and the errors of the steps, float [S].
        """
        priority = None
        for group in self._plan.groups:
            if (self.steps + 1) % group.every:
                continue
            sums, errors = self._gradient(group, minibatch, totals)
            priority = priority if errors is None else errors
            scalars.add_all(sums)
            if self._too_far(sums):
                return False, priority
            optimizer = self._learning.optimizers[group.name]
            norm = self._learning.precision.step(optimizer, group.max_grad_norm)
            scalars.add(_named(group, "grad_norm"), norm / self._ranks.size)
        self.steps += 1
        every = self._plan.groups[-1].every
        if self._learning.target is not None and self.steps % every == 0:
            self._learning.target.follow(self.steps // every)
        return True, priority

    def _gradient(
        self, group: Group, minibatch: Batch, totals: Totals
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The gradient of a group, in its optimizer; scalars and errors of the loss.

        Micro-batches share the minibatch's denominators, so they add up.
        """
        policy, _, optimizers, precision, *_ = self._learning
        sums: dict[str, Tensor] = {}
        errors: list[Tensor] = []
        optimizers[group.name].zero_grad()
        for part, counts in self._micro_batches(minibatch):
            with precision.autocast():
                outputs = policy.evaluate(part.evaluated(), group.want)
            if not counts:
                precision.backward(_nothing(outputs))
                continue
            loss = self._algorithm.loss(group.name, outputs, part, totals)
            precision.backward(loss.total)
            if loss.priority is not None:
                errors.append(loss.priority.detach())
            for name, value in (
                (_named(group, "loss"), loss.total.detach()),
                *loss.metrics.items(),
            ):
                sums[name] = sums[name] + value if name in sums else value
        self._exchange.after(optimizers[group.name])
        return sums, torch.cat(errors) if errors else None

    def _micro_batches(self, minibatch: Batch) -> Iterator[tuple[Batch, bool]]:
        """What passes through the policy at once, and whether it counts."""
        limit, whole = self._plan.micro_batch, self._by_fragments(minibatch)
        parts = batches.passed(minibatch, limit, self._exchange.passes, whole=whole)
        for number, part in enumerate(parts, 1):
            self._exchange.before(last=number == len(parts))
            yield part

    def _too_far(self, sums: Mapping[str, Tensor]) -> bool:
        """Whether the policy has moved as far in this batch as the plan lets it."""
        if self._plan.max_kl is None or "approx_kl" not in sums:
            return False
        return float(self._ranks.add_up(sums["approx_kl"])) > self._plan.max_kl


def parts_of(plan: Plan, steps: int) -> int:
    """In how many minibatches an epoch over so many steps is divided."""
    if plan.minibatches is not None:
        return min(plan.minibatches, steps)
    return -(-steps // plan.minibatch) if plan.minibatch else 1


def _nothing(outputs: Mapping[str, Tensor]) -> Tensor:
    """A loss of 0 that every parameter has a part in that has one in the outputs."""
    return 0.0 * torch.stack([output.sum() for output in outputs.values()]).sum()


def _named(group: Group, what: str) -> str:
    return what if group.name == "all" else f"{group.name}_{what}"
