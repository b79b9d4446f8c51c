"""Targets of action values: pure functions on steps drawn from a replay.

A name says when: s_{t-1}, a_{t-1} (`_tm1`) lead to r_t and s_t (`_t`). With n steps at a time, s_t is
the state the window ended in.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from troupe.episodes import Ending
from troupe_learners.returns import last_steps


class Windows(NamedTuple):
    """The next n steps, or fewer, from each of S steps."""

    reward: Tensor
    """float [S]: rewards of the window, discounted to its first step."""
    discount: Tensor
    """float [S]: of the value of the state after the window; 0 if the episode terminated there."""
    last: Tensor
    """int64 [S]: the window's last step; the state after it is where to bootstrap."""


def n_step(reward: Tensor, length: Tensor, ending: Tensor, *, gamma: float, n: int) -> Windows:
    """Windows of n steps that stop where their fragment does (Sutton and Barto, 2nd ed., eq. 7.1).

    A window of k <= n steps has the discount gamma^k, or 0 where its last step terminated the
    episode. Fragments of one episode that lie end to end may be given as one, which lets windows
    go on from one to the next.

    Args:
        reward: float [S].
        length: int [N], steps of each fragment, at least 1; they sum to S.
        ending: uint8 [N], an `Ending`.
        gamma: discount per step.
        n: steps of a window, at least 1.
    """
    steps = reward.shape[0]
    start = torch.arange(steps, device=reward.device)
    end = torch.repeat_interleave(last_steps(length), length, output_size=steps)
    over = torch.repeat_interleave(ending == Ending.TERMINATED, length, output_size=steps)
    last = torch.minimum(start + (n - 1), end)
    gathered = torch.zeros_like(reward)
    for ahead in range(min(n, steps)):
        inside = start + ahead <= last
        gathered += torch.where(inside, gamma**ahead * reward.roll(-ahead), 0.0)
    discount = torch.pow(gamma, (last - start + 1).to(reward.dtype))
    return Windows(gathered, discount.masked_fill(over & (last == end), 0.0), last)


def bootstrapped(r_t: Tensor, discount_t: Tensor, v_t: Tensor) -> Tensor:
    """y = r_t + discount_t V(s_t), all float [S]; where the discount is 0, V may be anything.

    With V(s_t) = Q'(s_t, mu'(s_t)) it is the target of DDPG (Lillicrap et al., 2016,
    arXiv:1509.02971, algorithm 1).
    """
    return r_t + torch.where(discount_t == 0.0, 0.0, discount_t * v_t)


def double_q(q_t_selector: Tensor, q_t: Tensor) -> Tensor:
    """V(s_t): one network chooses the action, another says what it is worth.

    Double DQN (van Hasselt et al., 2016, arXiv:1509.06461). With one and the same network in both
    places it is the maximum of plain DQN.

    Args:
        q_t_selector: float [S, A], the online network; -inf for an action that is illegal.
        q_t: float [S, A], the target network.

    Returns:
        float [S].
    """
    return q_t.gather(1, q_t_selector.argmax(1, keepdim=True)).squeeze(1)


def twin_minimum(q_t: Tensor) -> Tensor:
    """V(s_t) by the most careful of K critics (Fujimoto et al., 2018, arXiv:1802.09477, eq. 10).

    Args:
        q_t: float [K, S].

    Returns:
        float [S].
    """
    return q_t.amin(0)


def smoothed(a_t: Tensor, noise: Tensor, *, limit: float, low: Tensor, high: Tensor) -> Tensor:
    """The target policy's action with clipped noise, within bounds (TD3, as above, section 5.3).

    Args:
        a_t: float [S, ...], mu'(s_t).
        noise: float [S, ...], drawn by the caller, in half-widths of the action's range.
        limit: the noise is clipped to +- this.
        low: float [...], bounds of the action.
        high: float [...].

    Returns:
        float [S, ...].
    """
    half = (high - low) / 2.0
    return torch.clamp(a_t + half * noise.clamp(-limit, limit), low, high)
