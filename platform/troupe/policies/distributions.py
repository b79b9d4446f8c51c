"""Distributions over actions as tensors of parameters, [S, parameters]: what a policy learns by.

Categorical actions have normalised log-probabilities there, -inf where an action is illegal; bits
have logits; numbers have means, then the logarithms of standard deviations.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from gymnasium import spaces as gym
from torch import Tensor

from troupe.errors import UserError
from troupe.policies import Spaces
from troupe.policies.inputs import mask_size, unpacked

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
_LOWEST = -200.0
"""Below this a log-probability's exponential is 0 in float32, and so is 0 log 0 with its gradient."""


class Distribution(Protocol):
    """A family of distributions over the actions of one space. All results are float32 [S]."""

    outputs: int
    """Of the network, per step."""

    def parameters(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """[S, outputs] of a network -> [S, parameters]; `mask` bool [S, outputs] is what is legal."""
        ...

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """log p(action), packed as in `Episodes`; a density for numbers."""
        ...

    def entropy(self, parameters: Tensor) -> Tensor:
        """In nats; differential for numbers."""
        ...

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(p||q) in closed form."""
        ...

    def uniform(self, parameters: Tensor) -> Tensor:
        """[S, parameters] of the distribution in which all actions that are legal here are as likely.

        Raises:
            UserError: there is none.
        """
        ...


class Categorical:
    """One of n actions."""

    def __init__(self, n: int) -> None:
        self.outputs = n

    def parameters(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """See `Distribution`."""
        if mask is not None:
            outputs = outputs.masked_fill(~mask, -torch.inf)
        return F.log_softmax(outputs, 1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`."""
        return parameters.gather(1, action.long().view(-1, 1)).squeeze(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        return -(parameters.exp() * parameters.clamp(min=_LOWEST)).sum(1)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """See `Distribution`."""
        possible = p > -torch.inf
        log_ratio = p.masked_fill(~possible, 0.0) - q.masked_fill(~possible, 0.0)
        return (p.exp() * log_ratio).sum(1)

    def uniform(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        legal = parameters > -torch.inf
        each = -legal.sum(1, keepdim=True).float().log()
        return each.expand_as(parameters).masked_fill(~legal, -torch.inf)


class MultiCategorical:
    """Several choices, independent of one another, side by side."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.outputs = sum(counts)
        self.counts = list(counts)
        self._parts = [Categorical(n) for n in counts]

    def parameters(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """See `Distribution`."""
        if mask is not None:
            outputs = outputs.masked_fill(~mask, -torch.inf)
        return torch.cat([F.log_softmax(part, 1) for part in self._split(outputs)], 1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`."""
        chosen = action.reshape(len(action), -1).long() + self._starts(action.device)
        return parameters.gather(1, chosen).sum(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        return self._whole.entropy(parameters)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """See `Distribution`."""
        return self._whole.kl(p, q)

    def uniform(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        parts = zip(self._parts, self._split(parameters), strict=True)
        return torch.cat([part.uniform(own) for part, own in parts], 1)

    @property
    def _whole(self) -> Categorical:
        """Entropies and divergences of independent choices are sums over all their outcomes."""
        return self._parts[0]

    def _split(self, outputs: Tensor) -> tuple[Tensor, ...]:
        return torch.split(outputs, self.counts, 1)

    def _starts(self, device: torch.device) -> Tensor:
        starts = [sum(self.counts[:i]) for i in range(len(self.counts))]
        return torch.tensor(starts, device=device)


class Bernoulli:
    """n bits, independent of one another. Actions are packed, uint8 [S, bytes]."""

    def __init__(self, n: int) -> None:
        self.outputs = n

    def parameters(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """See `Distribution`; there is no mask."""
        assert mask is None
        return outputs

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`."""
        bits = unpacked(action, self.outputs).to(parameters.dtype)
        return -F.binary_cross_entropy_with_logits(parameters, bits, reduction="none").sum(1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        return (F.softplus(parameters) - parameters * parameters.sigmoid()).sum(1)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """See `Distribution`."""
        return (p.sigmoid() * (p - q) - F.softplus(p) + F.softplus(q)).sum(1)

    def uniform(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        return torch.zeros_like(parameters)


class Gaussian:
    """n numbers, normal and independent of one another; nothing keeps them within bounds."""

    def __init__(self, n: int) -> None:
        self.outputs = 2 * n
        self._n = n

    def parameters(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """See `Distribution`; there is no mask."""
        assert mask is None
        return outputs

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`."""
        mean, log_std = self._split(parameters)
        score = (action.reshape(mean.shape).to(mean.dtype) - mean) * (-log_std).exp()
        return -(0.5 * score.square() + log_std).sum(1) - self._n * _HALF_LOG_TAU

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution`."""
        _, log_std = self._split(parameters)
        return log_std.sum(1) + self._n * (0.5 + _HALF_LOG_TAU)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """See `Distribution`."""
        (mean_p, log_p), (mean_q, log_q) = self._split(p), self._split(q)
        variance = (2.0 * (log_p - log_q)).exp()
        shift = ((mean_p - mean_q) * (-log_q).exp()).square()
        return 0.5 * (variance + shift - 1.0 - 2.0 * (log_p - log_q)).sum(1)

    def uniform(self, parameters: Tensor) -> Tensor:
        """Always raises: numbers without bounds have no uniform distribution."""
        raise UserError(
            "algorithm: a uniform policy needs actions that can be counted (Discrete, MultiDiscrete, "
            "MultiBinary); over a Box there is none"
        )

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return parameters[:, : self._n], parameters[:, self._n :]


def distribution_of(spaces: Spaces) -> Distribution:
    """The distributions of a stochastic policy over an action space.

    Raises:
        UserError: there are none, or the space's actions cannot be masked as the observation says.
    """
    made = _family(spaces)
    size = mask_size(spaces)
    if size and not (isinstance(made, Categorical | MultiCategorical) and size == made.outputs):
        raise UserError(
            f"network.kind: 'actor_critic' cannot mask {spaces.action} by an `action_mask` of {size} "
            "bits; it masks Discrete and MultiDiscrete, a bit for every choice"
        )
    return made


def _family(spaces: Spaces) -> Distribution:
    match spaces.action:
        case gym.Discrete() as space:
            return Categorical(int(space.n))
        case gym.MultiDiscrete() as space:
            return MultiCategorical([int(n) for n in space.nvec.reshape(-1)])
        case gym.MultiBinary() as space:
            return Bernoulli(math.prod(space.shape))
        case gym.Box() as space if space.dtype.kind == "f":
            return Gaussian(math.prod(space.shape))
    raise UserError(
        f"network.kind: 'actor_critic' has no distribution over {spaces.action}; it acts in Discrete, "
        "MultiDiscrete, MultiBinary and a Box of floats"
    )
