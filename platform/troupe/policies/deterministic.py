"""A deterministic policy and the value of its actions: what DDPG and TD3 train.

    observation -> inputs -> [convolutions] -> hidden layers -> tanh -> action, within its bounds
    observation, action -> inputs -> [convolutions] -> hidden layers -> value, once per critic

Actor and critics have nothing in common but the normaliser of observations. Inside, actions are
shares of half their range: -1 is the lower bound and 1 the upper.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from gymnasium import spaces as gym
from torch import Tensor, nn

from troupe.jobs.spec import NetworkSettings
from troupe.policies import Acting, Spaces, Steps
from troupe.policies.fitting import refuse_options, unfit
from troupe.policies.hosted import Layers
from troupe.policies.inputs import Encoder, Inputs
from troupe.policies.perceptron import Perceptron


def create(spaces: Spaces, network: NetworkSettings) -> "Deterministic":
    """See `policies.create`."""
    return Deterministic(spaces, network)


def create_acting(
    spaces: Spaces, network: NetworkSettings, device: torch.device, precision: torch.dtype
) -> Acting:
    """See `policies.create_acting`; always in float32."""
    from troupe.policies.noisy import NoisyActor

    return NoisyActor(Deterministic(spaces, network), device)


class Deterministic(nn.Module):
    """mu(s) and Q(s, a). Parameters are float32; mixed precision is the caller's `torch.autocast`."""

    low: Tensor
    high: Tensor
    """float32, of the action's shape: its bounds."""
    updates: Tensor
    """int64 scalar, part of the weights: optimizer steps so far; at 0, actors act at random."""

    def __init__(self, spaces: Spaces, network: NetworkSettings) -> None:
        """Raises UserError: these spaces or this network do not fit."""
        super().__init__()
        space = spaces.action
        if not _is_bounded(space):
            raise unfit("deterministic", space, "a Box of floats with finite bounds")
        refuse_options("deterministic", network)
        assert isinstance(space, gym.Box)
        low, high = torch.tensor(space.low).float(), torch.tensor(space.high).float()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.inputs = Inputs(spaces, normalise=network.normalise_observation)
        self.encoder = Encoder(self.inputs)
        """The actor's."""
        self.critics_encoder = Encoder(self.inputs)
        width, hidden, layers = self.encoder.width, network.hidden, network.layers
        actions, activation = low.numel(), network.activation
        self.actor = Perceptron(width, hidden, layers, actions, activation)
        self.critics = nn.ModuleList(
            Perceptron(width + actions, hidden, layers, 1, activation)
            for _ in range(network.critics)
        )

    def group(self, name: str) -> list[nn.Parameter]:
        """`actor`, `critic` (all critics) or `all`."""
        match name:
            case "all":
                return list(self.parameters())
            case "actor":
                parts: list[nn.Module] = [self.encoder, self.actor]
            case "critic":
                parts = [self.critics_encoder, self.critics]
            case _:
                raise AssertionError(name)
        return [parameter for part in parts for parameter in part.parameters()]

    def evaluate(self, steps: Steps, want: Collection[str]) -> dict[str, Tensor]:
        """What is asked of every step.

        `value`, of the action given: [S], or [S, critics] where there are two.
        `policy_action` [S, ...]: mu(s), within its bounds.
        `policy_value` [S]: of mu(s), by the first critic, whose parameters get no gradient from it.
        """
        assert set(want) <= {"value", "policy_action", "policy_value"}, want
        features = self.inputs.features(steps.observation)
        given: dict[str, Tensor] = {}
        if "policy_action" in want:
            shares = self._act(features, steps.observation).view(-1, *self.low.shape)
            given["policy_action"] = self._centre + self._half * shares
        if "value" in want:
            assert steps.action is not None
            x = self._judged(features, steps.observation, self._shares(steps.action))
            values = [critic.apply_to(x) for critic in self._critics]
            given["value"] = values[0].squeeze(1) if len(values) == 1 else torch.cat(values, 1)
        if "policy_value" in want:
            shares = self._act(features, steps.observation)
            with torch.no_grad():
                seen = self.critics_encoder.encode(features, steps.observation)
            x = torch.cat([seen, shares], 1)
            given["policy_value"] = self._critics[0].apply_to(x, frozen=True).squeeze(1)
        return given

    def observe(
        self, observation: Mapping[str, Tensor], add_up: Callable[[Tensor], Tensor]
    ) -> None:
        """Merge the moments of a batch's observations, by name [S, ...], if they are normalised."""
        self.inputs.observe(observation, add_up)

    def outputs(
        self, observation: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, D]: mu(s) in shares of half the range; there is no state."""
        return self._act(self.inputs.features(observation), observation), {}

    def laid_out(self) -> Layers | None:
        """The layers from features to `outputs`, if they are nothing but linear and activations."""
        if self.inputs.images:
            return None
        *hidden, (weight, bias, _) = self.actor.laid_out()
        return [*hidden, (weight, bias, "tanh")]

    @property
    def _critics(self) -> list[Perceptron]:
        return [critic for critic in self.critics if isinstance(critic, Perceptron)]

    @property
    def _half(self) -> Tensor:
        return (self.high - self.low) / 2

    @property
    def _centre(self) -> Tensor:
        return (self.high + self.low) / 2

    def _shares(self, action: Tensor) -> Tensor:
        """[S, ...] in the action's own units -> [S, D] in shares of half the range."""
        return ((action - self._centre) / self._half).flatten(1)

    def _act(self, features: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        return self.actor.apply_to(self.encoder.encode(features, observation)).tanh()

    def _judged(
        self, features: Tensor, observation: Mapping[str, Tensor], shares: Tensor
    ) -> Tensor:
        """[S, width + D]: what critics read."""
        return torch.cat([self.critics_encoder.encode(features, observation), shares], 1)


def _is_bounded(space: object) -> bool:
    """Whether it is a Box of floats whose every range is finite and not empty."""
    if not isinstance(space, gym.Box) or space.dtype.kind != "f":
        return False
    with np.errstate(over="ignore", invalid="ignore"):  # bounds may be infinite, or nearly so
        span = space.high.astype(np.float32) - space.low.astype(np.float32)
    return bool(np.isfinite(span).all() and (span > 0).all())
