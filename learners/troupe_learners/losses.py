"""Losses: pure functions on tensors of S steps, each giving the steps' terms to minimise.

`aggregation` sums terms up to a scalar. Denominators are given, so micro-batches add up exactly.
Advantages, targets and whatever is called old are constants: they are to come without gradients.
"""

import torch
from torch import Tensor

from troupe_learners.kl import log_ratio


def mean_square(prediction: Tensor, target: Tensor, count: int) -> Tensor:
    """This micro-batch's share of the mean squared error over `count` steps.

    Args:
        prediction: float [S].
        target: float [S].
        count: steps in the whole minibatch, of which these S are a part.

    Returns:
        A scalar; the shares of all micro-batches sum to the mean over the minibatch.
    """
    return (prediction - target).square().sum() / count


def policy_gradient(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """-log pi(a_t|s_t) A_t: REINFORCE (Williams, 1992) and actor-critic (Mnih et al., 2016).

    Args:
        log_prob: float [S], differentiable.
        advantage: float [S].

    Returns:
        float [S].
    """
    return -log_prob * advantage


def ppo_clip(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, *, low: float, high: float
) -> Tensor:
    """The clipped surrogate of PPO (Schulman et al., 2017, arXiv:1707.06347, eq. 7).

    -min(ratio A, clip(ratio, 1 - low, 1 + high) A): there is nothing to gain from moving an action's
    probability further than that, and everything from undoing a move that was wrong.

    Args:
        log_prob: float [S], differentiable.
        old_log_prob: float [S], of the policy that the step is measured from.
        advantage: float [S].
        low: how far the ratio may fall below 1.
        high: how far it may rise above 1.

    Returns:
        float [S].
    """
    ratio = log_ratio(log_prob, old_log_prob).exp()
    clipped = ratio.clamp(1.0 - low, 1.0 + high)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def clipped(log_prob: Tensor, old_log_prob: Tensor, *, low: float, high: float) -> Tensor:
    """Whether the ratio of each step has left [1 - low, 1 + high]: bool [S]; its mean is logged."""
    ratio = log_ratio(log_prob, old_log_prob).exp()
    return (ratio < 1.0 - low) | (ratio > 1.0 + high)


def ppo_penalty(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, kl: Tensor, beta: float
) -> Tensor:
    """The surrogate of PPO with a penalty (as above, eq. 8): -(ratio A - beta KL(old||pi)).

    Args:
        log_prob: float [S], differentiable.
        old_log_prob: float [S], of the policy that the step is measured from.
        advantage: float [S].
        kl: float [S], differentiable: KL(old||pi) in closed form, or `kl.approx_kl`.
        beta: weight of the penalty, moved by `adapted_beta`.

    Returns:
        float [S].
    """
    return beta * kl - log_ratio(log_prob, old_log_prob).exp() * advantage


def adapted_beta(beta: float, kl: float, *, target: float, most: float) -> float:
    """The penalty's weight for the next batch (as above, section 4).

    Args:
        beta: its weight so far.
        kl: mean of KL(old||pi) over the whole batch, after its last epoch.
        target: the KL aimed at; off by more than a factor of 1.5, beta doubles or halves.
        most: beta never exceeds this.
    """
    if kl > 1.5 * target:
        beta *= 2.0
    elif kl < target / 1.5:
        beta /= 2.0
    return min(beta, most)


def value_error(value: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, all float [S]. Many other implementations leave the half out."""
    return 0.5 * (value - target).square()


def clipped_value_error(value: Tensor, target: Tensor, old_value: Tensor, clip: float) -> Tensor:
    """`value_error` that gains nothing from moving a value by more than `clip`, in units of value.

    The larger error of the value and of the value clipped to within `clip` of the old one, as in
    OpenAI's baselines, not in the paper (Engstrom et al., 2020, arXiv:2005.12729).

    Args:
        value: float [S], differentiable.
        target: float [S].
        old_value: float [S], what the critic said before the batch's first update.
        clip: at least 0.

    Returns:
        float [S].
    """
    near = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(value_error(value, target), value_error(near, target))


def actor_critic(
    policy: Tensor,
    value: Tensor,
    entropy: Tensor,
    *,
    value_coefficient: float,
    entropy_coefficient: float,
) -> Tensor:
    """The terms of a policy, its critic and its entropy bonus (Mnih et al., 2016, arXiv:1602.01783).

    Args:
        policy: float [S], terms of the policy.
        value: float [S], terms of the critic.
        entropy: float [S], of the policy in each state; its bonus is taken off the loss.
        value_coefficient: weight of the critic.
        entropy_coefficient: weight of the bonus.

    Returns:
        float [S].
    """
    terms = policy + value_coefficient * value
    return terms - entropy_coefficient * entropy if entropy_coefficient else terms


def td_loss(
    q_tm1: Tensor, target: Tensor, weight: Tensor | None = None, huber: float | None = None
) -> Tensor:
    """Half the squared error of a chosen action's value, or Huber's loss of it.

    With a weight from prioritised replay (Schaul et al., 2016, arXiv:1511.05952, section 3.4).

    Args:
        q_tm1: float [S], differentiable.
        target: float [S].
        weight: float [S], importance weights; none is 1.
        huber: the error from which the loss is linear, so that its gradient is clipped to +- this
            (Mnih et al., 2015); none is never.

    Returns:
        float [S].
    """
    error = q_tm1 - target
    if huber is None:
        term = 0.5 * error.square()
    else:
        size = error.abs()
        near = size.clamp(max=huber)
        term = near * (size - 0.5 * near)
    return term if weight is None else weight * term


def deterministic_policy(q: Tensor) -> Tensor:
    """-Q(s, mu(s)), float [S]: the actor of DDPG climbs its critic (Silver et al., 2014).

    To be differentiated by the actor's parameters only; the critic is not to learn from it.
    """
    return -q
