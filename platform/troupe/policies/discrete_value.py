"""A value for every action of a Discrete space: what DQN trains.

    observation -> inputs -> [convolutions] -> hidden layers -> Q(s, a) of all a

With `network.duelling` (Wang et al., 2016, arXiv:1511.06581) the last hidden layer is twice as wide:
one half ends in the state's value V, the other in the actions' advantages A, and
Q = V + A - mean(A), the mean over all actions, legal or not.
"""

from collections.abc import Callable, Collection, Mapping
from typing import cast

import torch
from gymnasium import spaces as gym
from torch import Tensor, nn

from troupe.errors import UserError
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Acting, Spaces, Steps
from troupe.policies.fitting import refuse_options, unfit
from troupe.policies.hosted import Layers
from troupe.policies.inputs import MASK, Encoder, Inputs, mask_size, unpacked
from troupe.policies.perceptron import Perceptron


def create(spaces: Spaces, network: NetworkSettings) -> "DiscreteValue":
    """See `policies.create`."""
    return DiscreteValue(spaces, network)


def create_acting(
    spaces: Spaces, network: NetworkSettings, device: torch.device, precision: torch.dtype
) -> Acting:
    """See `policies.create_acting`; always in float32."""
    from troupe.policies.greedy import GreedyActor

    return GreedyActor(DiscreteValue(spaces, network), device)


class DiscreteValue(nn.Module):
    """Q(s, .). Parameters are float32; mixed precision is the caller's `torch.autocast`."""

    def __init__(self, spaces: Spaces, network: NetworkSettings) -> None:
        """Raises UserError: these spaces or this network do not fit."""
        super().__init__()
        if not isinstance(spaces.action, gym.Discrete):
            raise unfit("discrete_value", spaces.action, "a Discrete space")
        refuse_options("discrete_value", network)
        self.actions = int(cast(int, spaces.action.n))
        size = mask_size(spaces)
        if size not in (0, self.actions):
            raise UserError(
                f"observation.{MASK}: {size} bits for {spaces.action}; it has one for every action"
            )
        self._mask = size > 0
        self.inputs = Inputs(spaces, normalise=network.normalise_observation)
        self.encoder = Encoder(self.inputs)
        width, hidden, activation = self.encoder.width, network.hidden, network.activation
        streams = int(network.duelling and network.layers > 0)
        self.body = Perceptron(width, hidden, network.layers - streams, 0, activation)
        self.streams = Perceptron(self.body.width, 2 * hidden, streams, 0, activation)
        self._own = hidden if streams else self.streams.width
        """Features of each stream."""
        self.advantage = Perceptron(self._own, hidden, 0, self.actions, activation)
        """Without duelling, the values themselves."""
        self.value = Perceptron(self._own, hidden, 0, 1, activation) if network.duelling else None

    def group(self, name: str) -> list[nn.Parameter]:
        """All parameters: this network has no parts."""
        assert name == "all", name
        return list(self.parameters())

    def evaluate(self, steps: Steps, want: Collection[str]) -> dict[str, Tensor]:
        """`value` [S] of the action taken, and `values` [S, actions], -inf for illegal actions.

        Where none is legal, as after the end of a game, all values stay finite, so that a discount
        of 0 leaves nothing of them.
        """
        assert set(want) <= {"value", "values"}, want
        values, _ = self.outputs(steps.observation, {})
        given: dict[str, Tensor] = {}
        if "values" in want:
            given["values"] = self._masked(values, steps.observation)
        if "value" in want:
            assert steps.action is not None
            given["value"] = values.gather(1, steps.action.long().view(-1, 1)).squeeze(1)
        return given

    def observe(
        self, observation: Mapping[str, Tensor], add_up: Callable[[Tensor], Tensor]
    ) -> None:
        """Merge the moments of a batch's observations, by name [S, ...], if they are normalised."""
        self.inputs.observe(observation, add_up)

    def outputs(
        self, observation: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, actions]: every action's value; there is no state."""
        x = self.encoder.encode(self.inputs.features(observation), observation)
        x = self.streams.apply_to(self.body.apply_to(x))
        values = self.advantage.apply_to(x[:, -self._own :])
        if self.value is not None:
            state_value = self.value.apply_to(x[:, : self._own])
            values = state_value + values - values.mean(1, keepdim=True)
        return values, {}

    def laid_out(self) -> Layers | None:
        """The layers from features to `outputs`, if they are nothing but linear and activations."""
        if self.inputs.images:
            return None
        ((weight, bias, _),) = self.advantage.laid_out()
        if self.value is not None:
            # Taking the mean off is linear, so both streams end in one layer.
            ((of_value, value_bias, _),) = self.value.laid_out()
            both = weight.new_zeros(self.actions, self.streams.width)
            both[:, -self._own :] += weight - weight.mean(0)
            both[:, : self._own] += of_value
            weight, bias = both, bias - bias.mean() + value_bias
        return [*self.body.laid_out(), *self.streams.laid_out(), (weight, bias, None)]

    def _masked(self, values: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        if not self._mask:
            return values
        legal = unpacked(observation[MASK], self.actions).bool()
        return values.masked_fill(~legal & legal.any(1, keepdim=True), -torch.inf)
