"""Advantages: pure functions on flat tensors of S steps that belong to N fragments."""

from typing import NamedTuple

import torch
from torch import Tensor

from troupe_learners.returns import last_steps, linear_recurrence, next_values


class Credit(NamedTuple):
    """What the steps of a batch were worth."""

    advantage: Tensor
    """float [S]: how much better an action was than the policy's average; for the actor."""
    target: Tensor
    """float [S]: what the state was worth; the critic is regressed on it."""


def gae(
    reward: Tensor,
    value: Tensor,
    bootstrap: Tensor,
    length: Tensor,
    ending: Tensor,
    *,
    gamma: float,
    lambda_: float,
) -> Credit:
    """Generalised advantage estimation (Schulman et al., 2016, arXiv:1506.02438, eq. 16).

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t) and A_t = delta_t + gamma lambda A_{t+1}. Every end of
    a fragment cuts the sum over deltas; only termination takes V(s_{t+1}) for 0. The targets are
    the lambda-returns A_t + V(s_t).

    Args:
        reward: float [S].
        value: float [S], V(s_t).
        bootstrap: float [N], value of the state after each fragment's last step; not read where
            the fragment terminated.
        length: int [N], steps of each fragment, at least 1; they sum to S.
        ending: uint8 [N], an `Ending`.
        gamma: discount per step.
        lambda_: 0 is the one-step error, 1 the whole return.
    """
    delta = reward + gamma * next_values(value, bootstrap, length, ending) - value
    advantage = linear_recurrence(delta, _within(delta, length, gamma * lambda_))
    return Credit(advantage, advantage + value)


def vtrace(
    reward: Tensor,
    value: Tensor,
    bootstrap: Tensor,
    log_ratio: Tensor,
    length: Tensor,
    ending: Tensor,
    *,
    gamma: float,
    lambda_: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> Credit:
    """V-trace (Espeholt et al., 2018, arXiv:1802.01561, eq. 1 and section 4.2).

    With rho_t = pi(a_t|s_t) / mu(a_t|s_t), g_t the discount (0 on termination) and
    delta_t = min(rho_bar, rho_t) (r_t + g_t V_{t+1} - V_t), targets and advantages are

        vs_t = V_t + delta_t + g_t lambda min(c_bar, rho_t) (vs_{t+1} - V_{t+1})
        A_t = min(rho_bar, rho_t) (r_t + g_t vs_{t+1} - V_t)

    Behind the last step of a fragment, vs is the bootstrap value. Where pi equals mu and the bars
    are at least 1, vs is the discounted return of the fragment and its bootstrap.

    Args:
        reward: float [S].
        value: float [S], V(s_t) of the learner's current critic.
        bootstrap: float [N], value of the state after each fragment's last step; not read where
            the fragment terminated.
        log_ratio: float [S], log pi(a_t|s_t) of the learner minus log mu(a_t|s_t) as acted.
        length: int [N], steps of each fragment, at least 1; they sum to S.
        ending: uint8 [N], an `Ending`.
        gamma: discount per step.
        lambda_: 1 is the paper's; less trusts the critic more (its remark 2).
        rho_bar: truncates the weight of an error: where the value function converges to.
        c_bar: truncates how far errors travel back: how fast it does.
    """
    ratio = log_ratio.exp()
    rho = ratio.clamp(max=rho_bar)
    delta = rho * (reward + gamma * next_values(value, bootstrap, length, ending) - value)
    trace = _within(delta, length, gamma * lambda_) * ratio.clamp(max=c_bar)
    target = value + linear_recurrence(delta, trace)
    following = next_values(target, bootstrap, length, ending)
    return Credit(rho * (reward + gamma * following - value), target)


def moments(value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count, sum and sum of squares, in double precision: what ranks add up between them.

    Args:
        value: float [S].
        mask: bool [S], the steps that count; none is all.

    Returns:
        float64 [3].
    """
    kept = value.double() if mask is None else value.double().masked_fill(~mask, 0.0)
    count = kept.new_tensor(len(kept)) if mask is None else mask.sum().double()
    return torch.stack([count, kept.sum(), kept.dot(kept)])


def normalise(value: Tensor, totals: Tensor, eps: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1 (with n-1) over all that `totals` counts.

    A single value has no deviation, so it is left as it is.

    Args:
        value: float [S], a part of what was counted.
        totals: float64 [3], `moments` added up over all parts and ranks.
        eps: added to the standard deviation.

    Returns:
        float [S], of the type of `value`.
    """
    count, total, squares = totals.unbind()
    mean = total / count.clamp(min=1.0)
    variance = (squares - total * mean).clamp(min=0.0) / (count - 1.0).clamp(min=1.0)
    normal = (value.double() - mean) / (variance.sqrt() + eps)
    return torch.where(count > 1.0, normal, value.double()).to(value.dtype)


def _within(like: Tensor, length: Tensor, factor: float) -> Tensor:
    """[S]: the factor from each step to the next, 0 from a fragment's last step."""
    factors = torch.full_like(like, factor)
    factors[last_steps(length)] = 0.0
    return factors
