"""The actor's side of the action-value network: every legal action of many decisions in one forward.

The state's share of the first layer is the same for all legal actions of a decision, so it is
computed once and added to each action's share.
"""

from collections.abc import Mapping
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from troupe.episodes import Array, Columns
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Choices, Decisions, Spaces
from troupe.policies.action_value import ActionValue
from troupe.policies.choosing import epsilon_greedy
from troupe.policies.kernels import Linear, Memory
from troupe.policies.tensors import Tensors

# oneDNN keeps code and scratch space for every shape it meets, so shapes are rounded up to few;
# rounding further would spend more on rows that nobody needs than it saves.
ROUND_ROWS = 64
ROUND_STATES = 16


class ActionValueActor:
    """`Acting` by an `ActionValue` whose weights arrive from outside.

    At float32 the values equal those of `ActionValue.evaluate` up to the order of sums, at
    bfloat16 to about two decimal digits.
    """

    def __init__(
        self,
        spaces: Spaces,
        network: NetworkSettings,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        self._given = ActionValue(spaces, network).requires_grad_(False)
        """With the weights as they arrive."""
        self._tensors = Tensors(self._given)
        self._model = self._given
        if (device.type, precision) != ("cpu", torch.float32):
            self._model = deepcopy(self._given).to(device, precision)
        self._layout = self._model.layout
        self._device = device
        self._precision = precision
        self._prepare()

    def act(
        self, decisions: Decisions, random: np.random.Generator, exploration: float = 0.0
    ) -> Choices:
        """Choose the best action of every decision, or with probability `exploration` any."""
        values = self.values(decisions)
        return epsilon_greedy(values, decisions, random, exploration)

    def initial(self, count: int) -> Columns:
        """Nothing: the history is part of what is observed."""
        return {}

    def values(self, decisions: Decisions) -> NDArray[np.float32]:
        """[M]: the value of each legal action."""
        counts = np.diff(decisions.offsets)
        rows = len(decisions.legal)
        owner = np.zeros(_up(rows, ROUND_ROWS), np.int64)
        owner[:rows] = np.repeat(np.arange(counts.size), counts)
        with torch.inference_mode():
            states = self._encode(decisions.observation, _up(counts.size, ROUND_STATES))
            actions = self._unpack(decisions.legal, self._layout.action, owner.size)
            values = self._forward(states, actions, torch.from_numpy(owner).to(self._device))
            result: NDArray[np.float32] = values[:rows].cpu().numpy()
            return result

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Take weights by parameter name, whole or not at all.

        Raises:
            TroupeError: they are not the tensors of this network.
        """
        self._tensors.load(tensors)
        if self._model is not self._given:
            self._model.load_state_dict(self._given.state_dict())
        self._prepare()

    def _prepare(self) -> None:
        """Lay the weights out for use; the first layer in two: what reads the state, and the action."""
        lstm = self._model.memory
        self._memory = None if lstm is None else Memory(lstm, self._layout.rows)
        first, *rest = self._model.layers
        of_state, of_action = first.weight.tensor_split([-self._layout.action], dim=1)
        self._state = Linear(of_state, first.bias)
        self._action = Linear(of_action, None)
        self._rest = [Linear(layer.weight, layer.bias) for layer in rest]
        # In float32: bfloat16 has too few digits to tell values near one another apart.
        self._value = self._model.value.float()

    def _encode(self, observation: Mapping[str, Array], states: int) -> Tensor:
        """[states, hidden]: each state's share of the first layer, its bias included."""
        parts = [self._unpack(observation["state"], self._layout.state, states)]
        if self._memory is not None:
            bits = self._layout.rows * self._layout.width
            history = self._unpack(observation["history"], bits, states)
            steps = history.view(states, self._layout.rows, -1).transpose(0, 1)
            parts.insert(0, self._memory(steps.contiguous()))
        return self._state(torch.cat(parts, 1))

    def _forward(self, states: Tensor, actions: Tensor, owner: Tensor) -> Tensor:
        """[rows]: the value of each action, with `owner` [rows] the state it belongs to."""
        x = self._action.plus(actions, states.index_select(0, owner)).relu_()
        for layer in self._rest:
            x = layer.relu(x)
        values: Tensor = self._value(x.float())
        return values.squeeze(1)

    def _unpack(self, packed: Array, bits: int, rows: int) -> Tensor:
        """[n, bytes] -> [rows, bits] where the network is; rows past n are zero."""
        padded = np.zeros((rows, packed.shape[1]), np.uint8)
        padded[: len(packed)] = packed
        unpacked = np.unpackbits(padded, axis=1, count=bits, bitorder="little")
        return torch.from_numpy(unpacked).to(self._device).to(self._precision)


def _up(count: int, step: int) -> int:
    return -(-count // step) * step
