"""The actor's side of a stochastic policy."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from troupe.episodes import Array, Columns
from troupe.policies import Choices, Decisions
from troupe.policies.actor_critic import ActorCritic
from troupe.policies.choosing import owners, places
from troupe.policies.drawing import drawing_of
from troupe.policies.forward import forward_of
from troupe.policies.inputs import MASK, host_unpacked
from troupe.policies.tensors import Tensors


class StochasticActor:
    """`Acting` by an `ActorCritic` whose weights arrive from outside.

    Log-probabilities equal those of `ActorCritic.evaluate` up to the order of sums.
    """

    def __init__(self, network: ActorCritic, device: torch.device) -> None:
        self._network = network.to(device).requires_grad_(False)
        self._tensors = Tensors(self._network)
        self._device = device
        self._drawing = drawing_of(network.actions)
        self._outputs = network.actions.outputs
        self._forward = forward_of(network, device)

    def act(
        self, decisions: Decisions, random: np.random.Generator, exploration: float = 0.0
    ) -> Choices:
        """Draw from the policy, or without exploration take its mode, of log-probability 0.

        Raises:
            TroupeError: the weights have diverged, or an action that is legal by `action_mask` is
                not among those listed.
        """
        outputs, state = self._forward(decisions.observation, decisions.state)
        mask = self._mask(decisions)
        if exploration > 0.0:
            action, log_prob = self._drawing.draw(outputs, mask, random)
        else:
            action = self._drawing.mode(outputs, mask)
            log_prob = np.zeros(len(action), np.float32)
        return Choices(action, log_prob, places(action, decisions), state)

    def values(self, decisions: Decisions) -> NDArray[np.float32]:
        """[M]: the log-probability of each listed action of a Discrete space."""
        with torch.inference_mode():
            outputs, _ = self._forward(decisions.observation, decisions.state)
            mask = self._mask(decisions)
            held = None if mask is None else torch.from_numpy(mask)
            log_prob = self._network.actions.parameters(torch.from_numpy(outputs), held).numpy()
        listed: NDArray[np.float32] = log_prob[owners(decisions.offsets), decisions.legal]
        return listed

    def initial(self, count: int) -> Columns:
        """`h` and `c`, float32 [count, recurrent], zero; nothing without an LSTM."""
        memory = self._network.memory
        if memory is None:
            return {}
        return {name: np.zeros((count, memory.width), np.float32) for name in ("h", "c")}

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Take weights by parameter name, whole or not at all.

        Raises:
            TroupeError: they are not the tensors of this network.
        """
        self._tensors.load(tensors)
        self._forward = forward_of(self._network, self._device)

    def _mask(self, decisions: Decisions) -> NDArray[np.bool_] | None:
        """bool [B, outputs]: what is legal."""
        packed = decisions.observation.get(MASK)
        return None if packed is None else host_unpacked(packed, self._outputs).view(np.bool_)
