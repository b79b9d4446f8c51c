"""A value for every legal action: the network of DouZero (Zha et al., ICML 2021), one per policy.

An LSTM reads the recent moves; its last output, the state and one action enter a stack of hidden
layers that ends in the action's value. Nothing here knows a game: any one will do whose observation
has a `MultiBinary` `state` and, where there is one, a `MultiBinary` `history` of moves (oldest
first), and whose actions are `MultiBinary` too.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces as gym
from numpy.typing import NDArray
from torch import Tensor, nn

from troupe.errors import UserError
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Acting, Spaces, Steps

MOVES_PER_STEP = 3
"""Moves that the LSTM reads at once where the history's length allows, as in DouZero."""


def create(spaces: Spaces, network: NetworkSettings) -> "ActionValue":
    """See `policies.create`."""
    return ActionValue(spaces, network)


def create_acting(
    spaces: Spaces, network: NetworkSettings, device: torch.device, precision: torch.dtype
) -> Acting:
    """See `policies.create_acting`."""
    from troupe.policies.acting import ActionValueActor

    return ActionValueActor(spaces, network, device, precision)


class Layout:
    """The sizes of one policy's inputs, read from its spaces."""

    def __init__(self, spaces: Spaces) -> None:
        unknown = spaces.observation.keys() - {"state", "history"}
        if "state" not in spaces.observation or unknown:
            raise UserError(
                f"game: an action-value network reads `state` and `history`, this game shows {sorted(spaces.observation)}"
            )
        self.state = _size(_shape(spaces.observation["state"], "state"))
        self.action = _size(_shape(spaces.action, "action"))
        self.rows, self.width = 0, 0
        if "history" in spaces.observation:
            moves, *rest = _shape(spaces.observation["history"], "history")
            step = MOVES_PER_STEP if moves % MOVES_PER_STEP == 0 else 1
            self.rows, self.width = moves // step, step * _size(rest)


class ActionValue(nn.Module):
    """Q(s, a). Parameters are float32; mixed precision is the caller's `torch.autocast`."""

    memory: nn.LSTM | None
    table: Tensor

    def __init__(self, spaces: Spaces, network: NetworkSettings) -> None:
        super().__init__()
        self.layout = Layout(spaces)
        width = self.layout.state + self.layout.action
        self.memory = None
        if self.layout.rows:
            self.memory = nn.LSTM(self.layout.width, network.recurrent, batch_first=True)
            width += network.recurrent
        widths = [width] + [network.hidden] * network.layers
        self.hidden = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        """The first one's columns: the history's summary, the state, the action."""
        self.value = nn.Linear(network.hidden, 1)
        self.register_buffer("table", _bits_of_bytes(), persistent=False)

    @property
    def layers(self) -> list[nn.Linear]:
        """The hidden layers, first to last."""
        return [cast(nn.Linear, layer) for layer in self.hidden]

    def group(self, name: str) -> list[nn.Parameter]:
        """All parameters: this network has no parts."""
        assert name == "all"
        return list(self.parameters())

    def evaluate(self, steps: Steps, want: Collection[str]) -> dict[str, Tensor]:
        """`value` [S]: of the action taken. Columns of observations and actions are uint8 [S, bytes]."""
        assert set(want) == {"value"}
        assert steps.action is not None
        return {"value": self._value(steps.observation, steps.action)}

    def _value(self, observation: Mapping[str, Tensor], action: Tensor) -> Tensor:
        parts = [self._unpack(observation["state"], self.layout.state)]
        if self.memory is not None:
            bits = self._unpack(observation["history"], self.layout.rows * self.layout.width)
            steps = bits.view(-1, self.layout.rows, self.layout.width).transpose(0, 1)
            parts.insert(0, last_output(self.memory, steps.contiguous()))
        x = torch.cat([*parts, self._unpack(action, self.layout.action)], dim=1)
        for layer in self.layers:
            x = F.relu(layer(x))
        with torch.autocast(x.device.type, enabled=False):  # half precision rounds values too much
            return cast(Tensor, self.value(x.float())).squeeze(1)

    def _unpack(self, packed: Tensor, bits: int) -> Tensor:
        """[S, bytes] -> [S, bits] where the data is, in the precision of the products to come."""
        kind = self.table.device.type
        mixed = torch.is_autocast_enabled(kind)
        table = self.table.to(torch.get_autocast_dtype(kind)) if mixed else self.table
        return F.embedding(packed.int(), table).flatten(1)[:, :bits]


def last_output(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """The output of a one-layer LSTM after its last step, from a zero state; x is [T, S, inputs].

    Written out because PyTorch's own runs forward a second time to find its gradient on a CPU; at
    bfloat16 this trains 1.6 times as fast.

    Returns:
        [S, hidden].
    """
    from_input, from_output, *biases = lstm.all_weights[0]
    inputs = F.linear(x.flatten(0, 1), from_input, biases[0] + biases[1])
    h: Tensor | None = None
    c: Tensor | None = None
    for gates in inputs.view(*x.shape[:2], -1):
        if h is not None:
            gates = torch.addmm(gates, h, from_output.t())
        i, f, g, o = gates.chunk(4, dim=1)
        new = i.sigmoid() * g.tanh()
        c = new if c is None else torch.addcmul(new, f.sigmoid(), c)
        h = o.sigmoid() * c.tanh()
    assert h is not None
    return h


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape))


def _bits_of_bytes() -> Tensor:
    """float32 [256, 8]: the bits of every byte, lowest first."""
    values = np.arange(256, dtype=np.uint8)[:, None]
    return torch.from_numpy(np.unpackbits(values, axis=1, bitorder="little")).float()


def _shape(space: gym.Space[NDArray[np.generic]], name: str) -> tuple[int, ...]:
    if not isinstance(space, gym.MultiBinary):
        raise UserError(f"game: an action-value network needs a MultiBinary {name}, not {space}")
    return tuple(space.shape)
