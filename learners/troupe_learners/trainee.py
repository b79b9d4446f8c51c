"""One policy that is learning: its network, its optimizer, and how often it was updated."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from troupe import seeding
from troupe.episodes import Array, Columns
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Spaces
from troupe.policies.action_value import ActionValue
from troupe_learners.algorithms import Algorithm, Batch
from troupe_learners.optim import FlatOptimizer
from troupe_learners.precision import Precision
from troupe_learners.update import Update


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a policy is trained on."""

    device: torch.device
    dtype: torch.dtype
    """Of matrix products; weights are float32."""


class Trainee:
    """A policy's whole state of learning."""

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
        self.updates = 0
        """Also the version of the weights."""
        self._device = hardware.device
        self.policy = _initialise(spaces, network, seeding.key(seed, "weights", name))
        self.policy.to(hardware.device)
        self._optimizer = FlatOptimizer(self.policy, algorithm.optimizer)
        self._precision = Precision(hardware.dtype, hardware.device)
        self._random = seeding.stream(seed, "minibatches", name)
        self._update = Update(
            self.policy, algorithm, self._optimizer, self._precision, self._random
        )

    def train(self, columns: Columns) -> dict[str, Tensor]:
        """One update on a batch from the ring; scalars on the device, see `Update`."""
        metrics = self._update(Batch.on(self._device, columns))
        self.updates += 1
        return metrics

    @property
    def skips_overflow(self) -> bool:
        """Whether a gradient that is not finite does no harm, see `Precision`."""
        return self._precision.skips_overflow

    def weights(self) -> dict[str, Array]:
        """A copy of the weights by parameter name, float32 in host memory."""
        return self._optimizer.weights()

    def optimizer_state(self) -> dict[str, Array]:
        """A copy of the optimizer's tensors, in host memory."""
        state = self._optimizer.state()
        scale = {_SCALER + name: np.array(v) for name, v in self._precision.state().items()}
        return {**state, **scale}

    def random_state(self) -> Mapping[str, object]:
        """The state of the random stream that orders minibatches."""
        return dict(self._random.bit_generator.state)

    def restore(
        self,
        updates: int,
        weights: Columns,
        optimizer: Columns,
        random: Mapping[str, object] | None,
    ) -> None:
        """Go on from what a checkpoint holds.

        Raises:
            TroupeError: the tensors do not fit this network or this optimizer.
        """
        self._optimizer.load_weights(weights)
        own = {name: array for name, array in optimizer.items() if not name.startswith(_SCALER)}
        self._optimizer.load_state(own)
        self._precision.load_state(
            {n.removeprefix(_SCALER): float(a) for n, a in optimizer.items() if n not in own}
        )
        if random:
            self._random.bit_generator.state = random
        self.updates = updates


_SCALER = "loss_scale."


def _initialise(spaces: Spaces, network: NetworkSettings, key: int) -> ActionValue:
    """A fresh network whose weights follow from `key` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key)
        return ActionValue(spaces, network)
