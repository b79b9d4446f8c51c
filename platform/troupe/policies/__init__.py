"""Policies: networks that act for actors and are evaluated by learners."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from troupe.episodes import Array, Columns

if TYPE_CHECKING:  # importing torch takes a second: whoever only describes a game need not wait
    import torch

    from troupe.jobs.spec import NetworkSettings
    from troupe.policies.action_value import ActionValue

ACTION = "action"
"""The name of the one column of actions in the `Episodes` of a policy with a single action."""


@dataclass(frozen=True, slots=True)
class Spaces:
    """What one seat sees and does, in Gymnasium's terms; `MultiBinary` columns travel bit-packed."""

    observation: Mapping[str, spaces.Space[NDArray[np.generic]]]
    action: spaces.Space[NDArray[np.generic]]


class Decisions(NamedTuple):
    """B decisions of one policy that wait for an action, with M legal actions among them."""

    observation: Columns
    """By name, [B, ...], packed as in `Episodes`."""
    legal: Array
    """[M, ...]: every legal action of the first decision, then of the second, and so on."""
    offsets: NDArray[np.int64]
    """[B + 1]: the legal actions of decision i are rows `offsets[i]` to `offsets[i + 1]`."""


class Choices(NamedTuple):
    """What a policy chose for B decisions."""

    choice: NDArray[np.int64]
    """[B]: which of its own legal actions each decision takes, from 0."""
    log_prob: NDArray[np.float32]
    """[B]: log-probability of that choice under the distribution it was drawn from."""


class Acting(Protocol):
    """The actor's side of a policy that picks among listed actions. Batches are in host memory."""

    def act(
        self, decisions: Decisions, random: np.random.Generator, epsilon: float = 0.0
    ) -> Choices:
        """Choose for every decision; with probability `epsilon` uniformly among its legal actions."""
        ...

    def values(self, decisions: Decisions) -> NDArray[np.float32]:
        """[M]: how good each legal action looks, for a person or an evaluation to read."""
        ...

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Take weights by parameter name, whole or not at all."""
        ...


def create(spaces: Spaces, network: "NetworkSettings") -> "ActionValue":
    """The learner's side of a policy, with fresh random weights (torch's global random state).

    Raises:
        UserError: the game does not show what the network reads.
    """
    from troupe.policies.action_value import ActionValue

    return ActionValue(spaces, network)


def create_acting(
    spaces: Spaces, network: "NetworkSettings", device: "torch.device", precision: "torch.dtype"
) -> Acting:
    """The actor's side of the same policy; its weights are to be loaded.

    Raises:
        UserError: the game does not show what the network reads.
    """
    from troupe.policies.acting import ActionValueActor

    return ActionValueActor(spaces, network, device, precision)
