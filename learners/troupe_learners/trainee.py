"""One policy that is learning: its network, its optimizers, its memory, and how often it was updated."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from troupe import policies, seeding
from troupe.episodes import Array, Columns
from troupe.errors import TroupeError
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Policy, Spaces
from troupe_learners import batches
from troupe_learners.algorithms import Adaptive, Algorithm, Batch, Plan
from troupe_learners.batches import Piece
from troupe_learners.exchange import Copies, Exchange
from troupe_learners.flat import FlatModule
from troupe_learners.optim import FlatOptimizer, Optimizer
from troupe_learners.precision import Precision
from troupe_learners.ranks import Ranks, watched
from troupe_learners.replay import Memory
from troupe_learners.target import TargetNetwork
from troupe_learners.update import Learning, Update

TRAINED = "updates"
"""The buffer, of a policy that has one, which says how many optimizer steps its weights had."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a policy is trained on."""

    device: torch.device
    dtype: torch.dtype
    """Of matrix products; weights are float32."""
    ranks: Ranks = field(default_factory=Ranks)
    divided: bool = False
    """Whether each rank has a share of every parameter, rather than all of them."""


@runtime_checkable
class Observing(Protocol):
    """A policy that may normalise what it sees."""

    def observe(
        self, observation: Mapping[str, Tensor], add_up: Callable[[Tensor], Tensor]
    ) -> None:
        """Merge new observations, by name [S, ...]; `add_up` sums a tensor over all ranks."""
        ...


@runtime_checkable
class Publishing(Protocol):
    """A policy whose actors need less than all of its weights, or know them by other names."""

    def published(self, tensors: Columns) -> Columns:
        """What of the weights travels, by the names that actors know."""
        ...


class Parameters(Protocol):
    """Where the parameters of a policy lie."""

    def weights(self) -> dict[str, Array]:
        """A copy of the module's tensors by name, in host memory."""
        ...

    def load_weights(self, tensors: Mapping[str, Array]) -> None:
        """Take the module's tensors, whole or not at all.

        Raises:
            TroupeError: a tensor is missing, unknown or of another shape.
        """
        ...


class _Layout(NamedTuple):
    """How a policy is held, and what steps it."""

    parameters: Parameters
    optimizers: Mapping[str, Optimizer]
    """By group."""
    exchange: Exchange
    target: TargetNetwork | None = None


class Trainee:
    """A policy's whole state of learning.

    Raises:
        UserError: there is no such network, or it does not fit what the policy sees and does.
    """

    def __init__(
        self,
        name: str,
        spaces: Spaces,
        network: NetworkSettings,
        algorithm: Algorithm,
        hardware: Hardware,
        seed: int,
    ) -> None:
        self.name = name
        self.algorithm = algorithm
        self.updates = 0
        """Turns of learning; also the version of the weights."""
        self.memory = Memory(algorithm.plan.replay) if algorithm.plan.replay else None
        self._owed = 0.0
        """Optimizer steps that the steps in memory are still to be learned from; less than one."""
        plan, device = algorithm.plan, hardware.device
        self._device = device
        self._ranks = hardware.ranks
        self._divided = hardware.divided
        module = _initialise(spaces, network, seeding.key(seed, "weights", name))
        layout = (_shared if hardware.divided else _flat)(module, plan, hardware)
        self._parameters = layout.parameters
        self._trained = dict(module.named_buffers()).get(TRAINED)
        self._learning = Learning(
            policy=cast(Policy, module),
            target=layout.target,
            optimizers=layout.optimizers,
            precision=Precision(hardware.dtype, device),
            shuffle=seeding.stream(seed, "minibatches", name, *_rank(hardware.ranks)),
            random=torch.Generator(device).manual_seed(
                seeding.key(seed, "algorithm", name, *_rank(hardware.ranks))
            ),
        )
        self._update = Update(algorithm, self._learning, hardware.ranks, layout.exchange)

    @property
    def policy(self) -> Policy:
        """The network, as the learner sees it."""
        return self._learning.policy

    def train(self, pieces: Sequence[Piece], progress: float) -> dict[str, float]:
        """One turn of learning: on the pieces, or with replay on samples after they are taken in.

        Args:
            pieces: what was played.
            progress: how much of the run is done, 0 to 1.

        Returns:
            What is to be looked at, see `Update`; nothing where a rank had too little to learn from.
        """
        scalars = {}
        if self.memory is None:
            # All ranks or none: what a rank without steps brings to a batch is not defined.
            if self._ranks.least(sum(piece.steps for piece in pieces)):
                with watched():
                    scalars = self._update.on_batch(batches.join(pieces, self._device), progress)
        else:
            for piece in pieces:
                self.memory.add(piece.id, piece.block, batches.first_stream(piece.block))
            fresh = [piece for piece in pieces if piece.fresh]
            if fresh and isinstance(self.policy, Observing):
                seen = batches.join(fresh, self._device).observation
                self.policy.observe(seen, self._ranks.add_up)
            taken = sum(piece.steps for piece in fresh)
            if count := self._owes(taken):
                scalars = self._update.on_samples(self._sample, self._rate, count, progress)
        self.updates += 1
        if self._trained is not None:
            self._trained.fill_(self._update.steps)
        return scalars

    @property
    def skips_overflow(self) -> bool:
        """Whether a gradient that is not finite does no harm, see `Precision`."""
        return self._learning.precision.skips_overflow

    def weights(self) -> dict[str, Array]:
        """A copy of the weights by name, in host memory: parameters (float32) and statistics.

        Where they are divided, the first rank has them, and the others call `lend_weights`.
        """
        return self._parameters.weights()

    def lend_weights(self) -> None:
        """Another rank than the first, which calls `weights` or `published`, brings it its share."""
        if self._divided:
            self._parameters.weights()

    def lend_state(self) -> None:
        """The same where the first one calls `state`."""
        if self._divided:
            self.state()

    def published(self) -> Columns:
        """A copy of what actors need of the weights, by the names that they know."""
        weights = self.weights()
        return self.policy.published(weights) if isinstance(self.policy, Publishing) else weights

    def state(self) -> dict[str, Array]:
        """A copy of what else its training depends on, by name, in host memory.

        Not what its memory holds, nor its random stream in host memory.
        """
        held: dict[str, Array] = {_STEPS: np.array(self._update.steps)}
        held[_OWED] = np.array(self._owed)
        held[_RANDOM] = self.generator_state()
        for group, optimizer in self._learning.optimizers.items():
            held |= {f"{_OPTIMIZER}{group}.{n}": tensor for n, tensor in optimizer.state().items()}
        scale = self._learning.precision.state()
        held |= {_SCALE + name: np.array(value) for name, value in scale.items()}
        if self._learning.target is not None:
            held[_TARGET] = self._learning.target.state()
        return held

    def random_state(self) -> Mapping[str, object]:
        """The state of the random stream that orders minibatches and draws from replay."""
        return dict(self._learning.shuffle.bit_generator.state)

    def generator_state(self) -> Array:
        """The state of the algorithm's random stream, which is part of `state` too."""
        return self._learning.random.get_state().numpy()

    def restore_own(
        self, random: Mapping[str, object], generator: Array, settings: Mapping[str, float]
    ) -> None:
        """Behind `restore`: what is another rank's there, this rank has in its own way."""
        self._learning.shuffle.bit_generator.state = random
        self._learning.random.set_state(torch.from_numpy(np.array(generator)))
        if isinstance(self.algorithm, Adaptive):
            self.algorithm.restore(settings)

    def settings_state(self) -> Mapping[str, float]:
        """What the algorithm has moved its own settings to, by name."""
        return self.algorithm.state() if isinstance(self.algorithm, Adaptive) else {}

    def restore(
        self,
        updates: int,
        weights: Columns,
        state: Columns,
        random: Mapping[str, object] | None,
        settings: Mapping[str, float],
    ) -> None:
        """Go on from what a checkpoint holds.

        Raises:
            TroupeError: the tensors do not fit this network or this optimizer.
        """
        self._parameters.load_weights(weights)
        if state:
            self._load_state(state)
        if random:
            self._learning.shuffle.bit_generator.state = random
        if isinstance(self.algorithm, Adaptive):
            self.algorithm.restore(settings)
        self.updates = updates

    def _load_state(self, state: Columns) -> None:
        for group, optimizer in self._learning.optimizers.items():
            optimizer.load_state(_below(state, f"{_OPTIMIZER}{group}."))
        scale = _below(state, _SCALE).items()
        self._learning.precision.load_state({name: float(value) for name, value in scale})
        if (target := self._learning.target) is not None:
            if _TARGET not in state:
                raise TroupeError("target: there was no target network before")
            target.load_state(state[_TARGET])
        self._learning.random.set_state(torch.from_numpy(np.array(state[_RANDOM])))
        self._update.steps, self._owed = int(state[_STEPS]), float(state[_OWED])

    def _owes(self, taken: int) -> int:
        """How many optimizer steps are to be made, now that so many more steps were taken in."""
        replay = self.algorithm.plan.replay
        assert replay is not None
        assert self.memory is not None
        taken, held = self._ranks.total(taken), self._ranks.total(self.memory.steps)
        if held < min(replay.learning_starts, replay.capacity * self._ranks.size):
            return 0
        if not self._ranks.least(self.memory.steps):
            return 0
        self._owed += taken * replay.updates_per_step
        count = int(self._owed)
        self._owed -= count
        return count

    def _sample(self, count: int, random: np.random.Generator, progress: float) -> Batch:
        assert self.memory is not None
        return batches.drawn(self.memory.sample(count, random, progress), self._device)

    def _rate(self, batch: Batch, error: Tensor) -> None:
        assert self.memory is not None
        self.memory.update(batch.step["index"].cpu().numpy(), error.float().cpu().numpy())


_STEPS = "steps"
_OWED = "owed"
_RANDOM = "random"
_TARGET = "target"
_OPTIMIZER = "optimizer."
_SCALE = "loss_scale."


def _initialise(spaces: Spaces, network: NetworkSettings, key: int) -> nn.Module:
    """A fresh network whose weights follow from `key` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key)
        return policies.create(spaces, network)


def _rank(ranks: Ranks) -> tuple[int, ...]:
    """What tells the random streams of ranks apart; the first has those of an only one."""
    return (ranks.rank,) if ranks.rank else ()


def _flat(module: nn.Module, plan: Plan, hardware: Hardware) -> _Layout:
    """All parameters in one buffer, on every rank."""
    module.to(hardware.device)
    groups = [cast(Policy, module).group(group.name) for group in plan.groups]
    flat = FlatModule(module, groups)
    optimizers = {
        group.name: FlatOptimizer(own, flat.values[place], group.optimizer)
        for group, own, place in zip(plan.groups, groups, flat.groups, strict=True)
    }
    return _Layout(flat, optimizers, Copies(hardware.ranks), _target(module, flat, plan))


def _shared(module: nn.Module, plan: Plan, hardware: Hardware) -> _Layout:
    """A share of every parameter on each rank."""
    from troupe_learners import sharding  # takes a while, and few jobs need it

    assert plan.tau is None, "a target network is not divided"
    ranks = hardware.ranks
    divided = sharding.shard(module, hardware.device, hardware.dtype, ranks)
    policy = cast(Policy, module)
    optimizers = {
        group.name: sharding.ShardedOptimizer(policy.group(group.name), group.optimizer, ranks)
        for group in plan.groups
    }
    held = sharding.ShardedModule(module, ranks)
    return _Layout(held, optimizers, sharding.Shares(divided, ranks))


def _target(module: nn.Module, flat: FlatModule, plan: Plan) -> TargetNetwork | None:
    if plan.tau is None:
        return None
    names = [group.name for group in plan.groups]
    return TargetNetwork(module, flat, names, plan.tau, plan.target_every)


def _below(columns: Columns, prefix: str) -> dict[str, Array]:
    return {n.removeprefix(prefix): c for n, c in columns.items() if n.startswith(prefix)}
