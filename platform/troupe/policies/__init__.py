"""Policies: networks that act for actors and are evaluated by learners."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from troupe.episodes import Array, Columns
from troupe.plugins import find

if TYPE_CHECKING:  # importing torch takes a second: whoever only describes a game need not wait
    import torch
    from torch import Tensor

    from troupe.jobs.spec import NetworkSettings

ACTION = "action"
"""The name of the one column of actions in the `Episodes` of a policy with a single action."""


@dataclass(frozen=True, slots=True)
class Spaces:
    """What one seat sees and does, in Gymnasium's terms; `MultiBinary` columns travel bit-packed."""

    observation: Mapping[str, spaces.Space[NDArray[np.generic]]]
    action: spaces.Space[NDArray[np.generic]]


class Decisions(NamedTuple):
    """B decisions of one policy that wait for an action, with M listed actions among them."""

    observation: Columns
    """By name, [B, ...], packed as in `Episodes`."""
    legal: Array
    """[M, ...]: every legal action of the first decision, then of the second, and so on.

    A game lists its moves. An environment lists none, M is 0: its action space says what may be done.
    """
    offsets: NDArray[np.int64]
    """[B + 1]: the legal actions of decision i are rows `offsets[i]` to `offsets[i + 1]`."""
    state: Columns = MappingProxyType({})
    """By name, [B, ...]: the recurrent state, where the policy has one."""


class Choices(NamedTuple):
    """What a policy chose for B decisions."""

    action: Array
    """[B, ...]: the actions, of the policy's action space, packed as in `Episodes`."""
    log_prob: NDArray[np.float32]
    """[B]: log-probability (density) of each action under the distribution it was drawn from."""
    choice: NDArray[np.int64]
    """[B]: which of its own listed actions each decision takes, from 0; 0 where none is listed."""
    state: Columns = MappingProxyType({})
    """By name, [B, ...]: the recurrent state after this decision, where the policy has one."""


class Acting(Protocol):
    """The actor's side of a policy. Batches are in host memory.

    Where an observation has a column `action_mask`, MultiBinary, only actions whose bit is set are
    legal.
    """

    def act(
        self, decisions: Decisions, random: np.random.Generator, exploration: float = 0.0
    ) -> Choices:
        """Choose for every decision; without exploration what seems best.

        What exploration means is the policy's: the share of uniform choices for values of listed
        or numbered actions, the noise as a share of the action's range for a deterministic
        policy; a stochastic policy draws from its own distribution where it is above 0.
        """
        ...

    def values(self, decisions: Decisions) -> NDArray[np.float32]:
        """[M]: how good (or how likely) each listed action is, for a person or an evaluation to read."""
        ...

    def initial(self, count: int) -> Columns:
        """By name, [count, ...]: the recurrent state at the beginning of an episode; mostly nothing."""
        ...

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Take weights by parameter name, whole or not at all."""
        ...


@dataclass(frozen=True, slots=True)
class Steps:
    """S steps of N fragments, laid end to end, as a policy evaluates them. All on its device."""

    observation: "Mapping[str, Tensor]"
    """By name, [S, ...], packed and raw as in `Episodes`."""
    action: "Tensor | None" = None
    """[S, ...]; none where nothing is wanted that depends on it."""
    length: "Tensor | None" = None
    """int64 [N]: steps of each fragment; a policy without a recurrent state does not ask for it."""
    initial: "Mapping[str, Tensor]" = field(default_factory=dict)
    """By name, [N, ...]: the recurrent state before each fragment's first step."""
    context: "Mapping[str, Tensor]" = field(default_factory=dict)
    """By name, flat: what fragments have in common, as in `Episodes`."""
    about: "Mapping[str, Tensor]" = field(default_factory=dict)
    """By name, [N, ...]: what else is known of each fragment, as in `Episodes`."""


class Policy(Protocol):
    """The learner's side of a policy, a `torch.nn.Module`."""

    def evaluate(self, steps: Steps, want: Collection[str]) -> "dict[str, Tensor]":
        """What is asked of every step, by name, float32, differentiable in the parameters.

        Names, where the kind of policy has them:
            value [S]: of the state, or of the action taken where the policy values actions
                ([S, critics] where it has several critics).
            values [S, actions]: of every action of a Discrete space; of an illegal one -inf.
            policy_value [S]: of the action the policy itself would take, by its first critic, whose
                parameters get no gradient from it.
            policy_action [S, ...]: the action the policy itself would take, of its Box.
            log_prob [S], entropy [S]: of the action taken; of the policy there.
            distribution [S, parameters]: what `kl` compares.
            reference [S]: log-probability of the action taken under a policy that stays what it was.
        """
        ...

    def group(self, name: str) -> "list[torch.nn.Parameter]":
        """The parameters of one part that has an optimizer of its own, such as `actor`; `all` is all."""
        ...


def create(spaces: Spaces, network: "NetworkSettings") -> "torch.nn.Module":
    """The learner's side of a policy, with fresh random weights (torch's global random state).

    Raises:
        UserError: there is no such kind of policy, or it does not fit these spaces.
    """
    policy: torch.nn.Module = _module(network.kind).create(spaces, network)
    return policy


def create_acting(
    spaces: Spaces, network: "NetworkSettings", device: "torch.device", precision: "torch.dtype"
) -> Acting:
    """The actor's side of the same policy; its weights are to be loaded.

    Raises:
        UserError: there is no such kind of policy, or it does not fit these spaces.
    """
    acting: Acting = _module(network.kind).create_acting(spaces, network, device, precision)
    return acting


def _module(kind: str) -> ModuleType:
    return find(__name__, kind, "network.kind")
