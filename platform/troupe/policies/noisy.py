"""The actor's side of a deterministic policy."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from troupe.episodes import Array, Columns
from troupe.policies import Choices, Decisions
from troupe.policies.deterministic import Deterministic
from troupe.policies.drawing import check_finite
from troupe.policies.forward import forward_of
from troupe.policies.tensors import Tensors


class NoisyActor:
    """`Acting` by a `Deterministic` policy whose weights arrive from outside."""

    def __init__(self, network: Deterministic, device: torch.device) -> None:
        self._network = network.to(device).requires_grad_(False)
        self._tensors = Tensors(self._network)
        self._device = device
        self._low, self._high = network.low.cpu().numpy(), network.high.cpu().numpy()
        self._half, self._centre = (self._high - self._low) / 2, (self._high + self._low) / 2
        self._forward = forward_of(network, device)
        self._trained = False

    def act(
        self, decisions: Decisions, random: np.random.Generator, exploration: float = 0.0
    ) -> Choices:
        """mu(s) plus normal noise of `exploration` times half the action's range, within bounds.

        A policy that was never trained explores uniformly within the bounds. Log-probabilities are 0.

        Raises:
            TroupeError: the weights have diverged.
        """
        shares, _ = self._forward(decisions.observation, {})
        check_finite(shares)
        if exploration > 0.0:
            if self._trained:
                shares += exploration * random.standard_normal(shares.shape, np.float32)
            else:
                shares = random.uniform(-1.0, 1.0, shares.shape).astype(np.float32)
        action = self._centre + self._half * shares.reshape(-1, *self._low.shape)
        np.minimum(np.maximum(action, self._low, out=action), self._high, out=action)
        rows = len(action)
        return Choices(
            action,
            np.zeros(rows, np.float32),
            np.zeros(rows, np.int64),
        )

    def values(self, decisions: Decisions) -> NDArray[np.float32]:
        """Nothing: actions that are numbers are not listed."""
        return np.zeros(len(decisions.legal), np.float32)

    def initial(self, count: int) -> Columns:
        """Nothing: the policy remembers nothing."""
        return {}

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Take weights by parameter name, whole or not at all.

        Raises:
            TroupeError: they are not the tensors of this network.
        """
        self._tensors.load(tensors)
        self._forward = forward_of(self._network, self._device)
        self._trained = bool(self._network.updates)
