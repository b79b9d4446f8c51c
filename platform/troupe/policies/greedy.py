"""The actor's side of a network of action values."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from troupe.episodes import Array, Columns
from troupe.policies import Choices, Decisions
from troupe.policies.choosing import epsilon_greedy, listing, owners
from troupe.policies.discrete_value import DiscreteValue
from troupe.policies.forward import forward_of
from troupe.policies.inputs import MASK, host_unpacked
from troupe.policies.tensors import Tensors


class GreedyActor:
    """`Acting` by a `DiscreteValue` network whose weights arrive from outside."""

    def __init__(self, network: DiscreteValue, device: torch.device) -> None:
        self._network = network.to(device).requires_grad_(False)
        self._tensors = Tensors(self._network)
        self._device = device
        self._forward = forward_of(network, device)
        self._everything = listing(np.ones((0, network.actions), np.bool_))

    def act(
        self, decisions: Decisions, random: np.random.Generator, exploration: float = 0.0
    ) -> Choices:
        """The best legal action of every decision, or with probability `exploration` any.

        Raises:
            TroupeError: the weights have diverged.
        """
        listed = self._listed(decisions)
        chosen = epsilon_greedy(self.values(listed), listed, random, exploration)
        if len(decisions.legal):
            return chosen
        return chosen._replace(choice=np.zeros_like(chosen.choice))

    def values(self, decisions: Decisions) -> NDArray[np.float32]:
        """[M]: the value of each listed action."""
        values, _ = self._forward(decisions.observation, {})
        listed: NDArray[np.float32] = values[owners(decisions.offsets), decisions.legal]
        return listed

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

    def _listed(self, decisions: Decisions) -> Decisions:
        """The same decisions with their legal actions listed."""
        if len(decisions.legal):
            return decisions
        rows, actions = len(decisions.offsets) - 1, self._network.actions
        packed = decisions.observation.get(MASK)
        if packed is not None:
            legal, offsets = listing(host_unpacked(packed, actions).view(np.bool_))
            return decisions._replace(legal=legal, offsets=offsets)
        if len(self._everything[1]) != rows + 1:
            self._everything = listing(np.ones((rows, actions), np.bool_))
        legal, offsets = self._everything
        return decisions._replace(legal=legal, offsets=offsets)
