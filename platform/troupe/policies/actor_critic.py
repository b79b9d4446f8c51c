"""A stochastic policy and a value of states: what actor-critic algorithms train.

    observation -> inputs -> [convolutions] -> [LSTM] -> hidden layers -> distribution of actions
                                                      -> hidden layers -> value

Convolutions and the LSTM serve both; with `network.shared` the hidden layers do too.
"""

import math
from collections.abc import Callable, Collection, Mapping

import torch
from gymnasium import spaces as gym
from torch import Tensor, nn

from troupe.jobs.spec import NetworkSettings
from troupe.policies import Acting, Spaces, Steps
from troupe.policies.distributions import distribution_of
from troupe.policies.hosted import Layers
from troupe.policies.inputs import MASK, Encoder, Inputs, mask_size, unpacked
from troupe.policies.memory import Memory
from troupe.policies.normaliser import Moments
from troupe.policies.perceptron import Perceptron, initialise_orthogonally

STOCHASTIC = frozenset({"log_prob", "entropy", "distribution"})
"""What `evaluate` gives that needs the policy's hidden layers."""


def create(spaces: Spaces, network: NetworkSettings) -> "ActorCritic":
    """See `policies.create`."""
    return ActorCritic(spaces, network)


def create_acting(
    spaces: Spaces, network: NetworkSettings, device: torch.device, precision: torch.dtype
) -> Acting:
    """See `policies.create_acting`; always in float32."""
    from troupe.policies.stochastic import StochasticActor

    return StochasticActor(ActorCritic(spaces, network), device)


class ActorCritic(nn.Module):
    """pi(a|s) and V(s). Parameters are float32; mixed precision is the caller's `torch.autocast`."""

    def __init__(self, spaces: Spaces, network: NetworkSettings) -> None:
        """Raises UserError: these spaces do not fit."""
        super().__init__()
        self.actions = distribution_of(spaces)
        self._mask_size = mask_size(spaces)
        self.inputs = Inputs(spaces, normalise=network.normalise_observation)
        self.encoder = Encoder(self.inputs)
        width = self.encoder.width
        self.memory = Memory(width, network.recurrent) if network.recurrent else None
        width = network.recurrent or width
        hidden, activation = network.hidden, network.activation
        own = 0 if network.shared else network.layers
        self.body = Perceptron(width, hidden, network.layers - own, 0, activation)
        width = self.body.width
        numbers = math.prod(spaces.action.shape) if isinstance(spaces.action, gym.Box) else 0
        self.policy = Perceptron(width, hidden, own, numbers or self.actions.outputs, activation)
        self.critic = Perceptron(width, hidden, own, 1, activation)
        self.log_std = nn.Parameter(torch.zeros(numbers)) if numbers else None
        """Logarithms of standard deviations, the same in every state."""
        self.returns = Moments(1) if network.normalise_reward else None
        """Of running discounted returns."""
        initialise_orthogonally(self, {self.policy.linear[-1]: 0.01, self.critic.linear[-1]: 1.0})

    def group(self, name: str) -> list[nn.Parameter]:
        """`all`, `critic` (its own layers), or `policy` (all others, those for both included)."""
        critic = list(self.critic.parameters())
        match name:
            case "all":
                return list(self.parameters())
            case "critic":
                return critic
            case "policy":
                own = set(critic)
                return [parameter for parameter in self.parameters() if parameter not in own]
        raise AssertionError(name)

    def evaluate(self, steps: Steps, want: Collection[str]) -> dict[str, Tensor]:
        """`value`, `log_prob`, `entropy` [S] and `distribution` [S, parameters].

        With an LSTM, steps are whole fragments: `length` and, unless it is 0, `initial` are needed.
        """
        wanted = set(want)
        assert wanted <= STOCHASTIC | {"value"}, wanted
        x = self.encoder.encode(self.inputs.features(steps.observation), steps.observation)
        if self.memory is not None:
            assert steps.length is not None, "a recurrent policy evaluates whole fragments"
            x = self.memory.over(x, steps.length, steps.initial)
        x = self.body.apply_to(x)
        given: dict[str, Tensor] = {}
        if "value" in wanted:
            given["value"] = self.critic.apply_to(x).squeeze(1)
        if not STOCHASTIC.isdisjoint(wanted):
            parameters = self._distribution(x, steps.observation)
            if "distribution" in wanted:
                given["distribution"] = parameters
            if "log_prob" in wanted:
                assert steps.action is not None
                given["log_prob"] = self.actions.log_prob(parameters, steps.action)
            if "entropy" in wanted:
                given["entropy"] = self.actions.entropy(parameters)
        return given

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(p||q), float32 [S], of two `distribution`s [S, parameters]."""
        return self.actions.kl(p, q)

    def uniform(self, distribution: Tensor) -> Tensor:
        """The `distribution` [S, parameters] that gives all actions that are legal here the same chance.

        Raises:
            UserError: actions are numbers, which have none.
        """
        return self.actions.uniform(distribution)

    def observe(
        self, observation: Mapping[str, Tensor], add_up: Callable[[Tensor], Tensor]
    ) -> None:
        """Merge the moments of a batch's observations, by name [S, ...], if they are normalised."""
        self.inputs.observe(observation, add_up)

    def observe_returns(self, returns: Tensor, add_up: Callable[[Tensor], Tensor]) -> None:
        """Merge the moments of running discounted returns, float [S], if rewards are normalised."""
        if self.returns is not None:
            self.returns.observe(returns.view(-1, 1), add_up)

    def reward_scale(self) -> Tensor:
        """What rewards are to be multiplied by, a float32 scalar: one over the returns' deviation."""
        if self.returns is None:
            return torch.ones(())
        _, deviation = self.returns.mean_and_deviation()
        return 1.0 / deviation.squeeze(0)

    def outputs(
        self, observation: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One decision for each of B rows: [B, actions.outputs] before any mask, and the next state."""
        x = self.encoder.encode(self.inputs.features(observation), observation)
        after: dict[str, Tensor] = {}
        if self.memory is not None:
            x, after = self.memory.step(x, state)
        return self._outputs(self.body.apply_to(x)), after

    def laid_out(self) -> Layers | None:
        """The layers from features to `outputs`, if they are nothing but linear and activations."""
        if self.memory is not None or self.inputs.images:
            return None
        *hidden, (weight, bias, _) = self.policy.laid_out()
        if self.log_std is not None:
            # Deviations are the same in every state: outputs that read nothing.
            weight = torch.cat([weight, torch.zeros_like(weight)])
            bias = torch.cat([bias, self.log_std])
        return [*self.body.laid_out(), *hidden, (weight, bias, None)]

    def _outputs(self, x: Tensor) -> Tensor:
        outputs = self.policy.apply_to(x)
        if self.log_std is not None:
            outputs = torch.cat([outputs, self.log_std.expand_as(outputs)], 1)
        return outputs

    def _distribution(self, x: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        mask = unpacked(observation[MASK], self._mask_size).bool() if self._mask_size else None
        return self.actions.parameters(self._outputs(x), mask)
