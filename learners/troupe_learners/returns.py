"""Returns: pure functions on flat tensors of S steps that belong to N fragments."""

import torch
from torch import Tensor

from troupe.episodes import Ending

_FEW = 512
"""Steps; PyTorch would mostly be busy with itself."""


def monte_carlo(reward: Tensor, length: Tensor, gamma: float = 1.0) -> Tensor:
    """The return of every step: its reward and the discounted rewards after it in its fragment.

    G_t = r_t + gamma r_{t+1} + gamma^2 r_{t+2} + ... (Sutton and Barto, 2nd ed., eq. 3.8).

    Args:
        reward: float [S].
        length: int [N], the steps of each fragment; they sum to S.
        gamma: discount per step.

    Returns:
        float [S].
    """
    discount = torch.full_like(reward, gamma)
    discount[last_steps(length)] = 0.0
    return linear_recurrence(reward, discount)


def last_steps(length: Tensor) -> Tensor:
    """Where each fragment's last step is: int [N] of lengths, none of them 0, to int64 [N]."""
    return length.cumsum(0) - 1


def next_values(value: Tensor, bootstrap: Tensor, length: Tensor, ending: Tensor) -> Tensor:
    """V(s_{t+1}) of every step: the value of the state its action led to.

    That is the next step's value within a fragment; behind its last step the value of the state
    the fragment ended in, never of what the next episode began with, and 0 where the episode
    terminated. A truncated episode and a cut fragment have a future (Pardo et al., 2018,
    arXiv:1712.00378).

    Args:
        value: float [S], V(s_t).
        bootstrap: float [N], value of the state after each fragment's last step; not read (so it
            may be NaN) where the fragment terminated.
        length: int [N], steps of each fragment, at least 1; they sum to S.
        ending: uint8 [N], an `Ending`.

    Returns:
        float [S].
    """
    following = value.roll(-1)
    following[last_steps(length)] = bootstrap.masked_fill(ending == Ending.TERMINATED, 0.0)
    return following


def linear_recurrence(value: Tensor, factor: Tensor) -> Tensor:
    """Solve x_t = value_t + factor_t x_{t+1} backwards, with x = 0 behind the last step.

    A factor of 0 ends a fragment. A few steps in host memory are gone through one by one. Others take
    log2(longest fragment) passes over whole tensors: each doubles how far every step has looked
    ahead (Hillis and Steele, "Data parallel algorithms", CACM 1986), and adds values only within a
    fragment, so nothing is lost to cancellation.

    Args:
        value: float [S].
        factor: float [S].

    Returns:
        float [S].
    """
    if value.device.type == "cpu" and value.numel() <= _FEW:
        return _one_by_one(value, factor)
    value, factor = value.clone(), factor.clone()
    factor[-1:] = 0.0
    reach = 1
    while reach < value.numel() and bool(factor.any()):
        ahead = torch.zeros_like(value)
        ahead[:-reach] = value[reach:]
        beyond = torch.zeros_like(factor)
        beyond[:-reach] = factor[reach:]
        value += factor * ahead
        factor *= beyond
        reach *= 2
    return value


def _one_by_one(value: Tensor, factor: Tensor) -> Tensor:
    """The recurrence from the last step to the first."""
    result: list[float] = []
    following = 0.0
    for own, share in zip(reversed(value.tolist()), reversed(factor.tolist()), strict=True):
        following = own + share * following if share else own
        result.append(following)
    return torch.tensor(result[::-1], dtype=value.dtype)
