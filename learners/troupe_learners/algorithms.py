"""Algorithms: one file each, found by its name. The update loop (`update.py`) is the same for all.

A file offers `Config`, a settings class, `Algorithm`, made from one, and `defaults`, which says what a
job of it has where it leaves keys out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from troupe.config import parse
from troupe.episodes import Columns, Episodes
from troupe.errors import UserError
from troupe.plugins import find
from troupe.policies import ACTION, Policy, Spaces, Steps
from troupe_learners.optim import OptimizerSettings

OBSERVATION = "observation."
ACTIONS = "action."
"""Prefixes of column names in a ring; per-step columns have none."""
VERSION = "version"


@dataclass(frozen=True, slots=True)
class Batch:
    """S steps of N fragments on the learner's device, laid end to end.

    Where steps are taken out of their fragments (a minibatch of steps, a sample from replay) there
    are no columns per fragment.
    """

    observation: Mapping[str, Tensor]
    """By name, [S, ...]."""
    action: Mapping[str, Tensor]
    """By name, [S, ...]."""
    step: Mapping[str, Tensor]
    """By name, [S]: `version`, `reward`, `log_prob`, and what `credit` and `prepare` computed."""
    fragment: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, [N]: `length` (int64), `ending`, `seat` (uint8), `group` and `stream` (int64).

    `group` numbers deals or prompts from 0, over the whole batch that a minibatch is a part of.
    `stream` numbers what fragments follow one another in: one environment of one actor, in order.
    """
    final: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, [N, ...]: the observation after each fragment's last step."""
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, [N, ...]: the recurrent state before each fragment's first step."""
    context: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, flat: what fragments have in common; parts of a batch have all of it."""
    about: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, [N, ...]: what else is known of each fragment, such as `prompt`, see `Episodes`."""

    @property
    def whole(self) -> bool:
        """Whether a policy can make sense of its steps in whole fragments only."""
        return bool(self.initial) or bool(self.context)

    @property
    def steps(self) -> int:
        """S."""
        return next(iter(self.step.values())).shape[0]

    def __getitem__(self, rows: slice | Tensor) -> "Batch":
        """The same columns of some of the steps, out of their fragments."""
        return Batch(
            observation={name: tensor[rows] for name, tensor in self.observation.items()},
            action={name: tensor[rows] for name, tensor in self.action.items()},
            step={name: tensor[rows] for name, tensor in self.step.items()},
        )

    def with_steps(self, columns: Mapping[str, Tensor]) -> "Batch":
        """The batch with further per-step columns."""
        return replace(self, step={**self.step, **columns})

    def evaluated(self) -> Steps:
        """The steps as a policy evaluates them."""
        length = self.fragment.get("length")
        action = self.action[ACTION]
        return Steps(self.observation, action, length, self.initial, self.context, self.about)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters that are trained by a loss and an optimizer of their own."""

    name: str
    """As `Policy.group` has it."""
    want: frozenset[str]
    """What the loss needs of `Policy.evaluate`."""
    optimizer: OptimizerSettings
    max_grad_norm: float | None = None
    """The gradient is scaled down to this L2 norm."""
    every: int = 1
    """Stepped in every so many optimizer steps (the delayed actor of TD3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How steps are kept and drawn again. Without it every step is trained on in one batch only."""

    capacity: int
    """Steps that are kept, the newest; of each rank."""
    batch: int
    """Steps that are drawn for one optimizer step, over all ranks."""
    updates_per_step: float
    """Optimizer steps for every step taken in; a turn's fraction is carried over to the next."""
    learning_starts: int
    """Steps taken in before the first optimizer step, over all ranks."""
    n_step: int = 1
    gamma: float = 0.99
    """Discounts the rewards of a window of `n_step` steps.

    A drawn step has the columns `reward` (of the window), `discount` (gamma to the steps really
    taken, 0 if it terminated) and `observation.NAME` of the state after it as `next.NAME`.
    """
    alpha: float | None = None
    """Exponent of priorities (Schaul et al., 2016); none draws uniformly."""
    beta: float = 0.4
    """Exponent of the importance weights, in the column `weight`; moves to 1 by the run's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How an algorithm wants to be run."""

    groups: tuple[Group, ...]
    """Trained one after the other on every minibatch."""
    batch: int | None = None
    """Steps that are prepared together; none is what all actors play in a turn, or of text so many
    groups as its job says."""
    whole: bool = True
    """Batches are of whole fragments, `batch` or a few more steps; else exactly `batch` steps of any."""
    epochs: int = 1
    minibatch: int | None = None
    """Steps per optimizer step over all ranks, in random order; none is the whole batch, in order."""
    minibatches: int | None = None
    """In place of `minibatch`: in how many minibatches, as even as can be, an epoch is divided."""
    normalise: str | None = None
    """Per-step column that is shifted and scaled, before each optimizer step, to mean 0 and
    deviation 1 over its minibatch of all ranks."""
    segments: bool = False
    """Minibatches are of whole fragments, about `minibatch` steps; always so where a batch has
    recurrent states or a context."""
    together: bool = False
    """Minibatches are of whole groups: deals or prompts; always so of text, where a group's prompt is
    computed once."""
    micro_batch: int | None = None
    """Steps that pass through the network at once, their prompts counted too; bounds memory and
    changes no result."""
    afresh: bool = False
    """Before every batch the optimizers forget what they know of gradients."""
    anneal: bool = False
    """Learning rates fall linearly to 0 by the run's end, as `Roles.progress` has it."""
    max_kl: float | None = None
    """A batch is left when the loss's metric `approx_kl` of a minibatch exceeds this."""
    replay: Replay | None = None
    tau: float | None = None
    """The target network moves this share of the way to the policy after every optimizer step of the
    last group; none has no target network."""
    target_every: int = 1
    """Only every so many optimizer steps."""


class Totals(NamedTuple):
    """Denominators of one optimizer step, over all its micro-batches and ranks."""

    steps: int
    fragments: int = 0
    """Where minibatches are of whole fragments."""


class Loss(NamedTuple):
    """What one micro-batch contributes; contributions are summed."""

    total: Tensor
    """Scalar, differentiable."""
    metrics: Mapping[str, Tensor]
    """Scalars to look at, by name; shares of the whole minibatch, as the loss is."""
    priority: Tensor | None = None
    """float [S]: with prioritised replay, the size of each step's error."""


def same(count: int) -> int:
    """The number itself."""
    return count


@dataclass(frozen=True, slots=True)
class Roles:
    """Whom an algorithm may ask while it prepares a batch."""

    policy: Policy
    target: Policy
    """The slowly moving copy, or the policy itself where the plan has no `tau`."""
    progress: float
    """How much of the run is done, 0 to 1; 0 where nothing says when it ends."""
    add_up: Callable[[Tensor], Tensor]
    """Sums a tensor over all ranks, [..] to [..]; the same result on each."""
    random: torch.Generator
    """On the policy's device."""
    passes: Callable[[int], int] = same
    """How often this rank is to evaluate, where it has to so many times: where a policy is divided
    among ranks, all have to equally often."""


class Algorithm(Protocol):
    """What is learned from a batch. It does not own the loop; every policy has one of its own."""

    plan: Plan

    def credit(self, block: Episodes) -> Columns:
        """Per-step columns [S] that need whole fragments; once per block, in host memory.

        Raises:
            TroupeError: the algorithm cannot learn from such a block.
        """
        ...

    def prepare(self, batch: Batch, roles: Roles) -> Batch:
        """Add per-step columns that need the whole batch; once per batch, without gradients."""
        ...

    def loss(
        self, group: str, outputs: Mapping[str, Tensor], minibatch: Batch, totals: Totals
    ) -> Loss:
        """This micro-batch's share of the loss of a group of parameters.

        Args:
            group: which.
            outputs: float32, what `policy.evaluate` gave of what the group wants.
            minibatch: the S steps.
            totals: denominators of the whole minibatch.
        """
        ...


class Module(Protocol):
    """What an algorithm's file offers."""

    Config: type
    Algorithm: type

    def defaults(self, settings: object, spaces: Spaces) -> Mapping[str, object]:
        """Job data for what a job leaves out, such as `{"network": {"kind": "actor_critic"}}`.

        Args:
            settings: its `Config`.
            spaces: what each policy sees and does.

        Raises:
            UserError: the algorithm does not fit the action space.
        """
        ...


@runtime_checkable
class Adaptive(Protocol):
    """An algorithm that moves a setting of its own as it goes; part of the checkpoint."""

    def after(self, batch: Batch, roles: Roles) -> Mapping[str, Tensor]:
        """Look at a batch after its last epoch; scalars to look at, by name. Without gradients."""
        ...

    def state(self) -> Mapping[str, float]:
        """What it has come to, by name."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave."""
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
