"""Dynamic programming: values and policies from a known model (Sutton and Barto, chapter 4)."""

from typing import Final

import numpy as np

from troupe.errors import UserError
from troupe_learners.tabular.model import Array, Mask, Model

TOLERANCE: Final = 1e-10
"""How far, in units of return, an iterated value may be from the one it converges to."""
MAX_ITERATIONS: Final = 1_000_000
"""With gamma below 1: values converge, if slowly where gamma is close to 1."""
MAX_UNDISCOUNTED: Final = 20_000
"""With gamma 1: values may grow for ever, which should be said within seconds."""
MAX_POLICIES: Final = 1_000
"""Policy iteration needs a dozen; only rounding, with gamma close to 1, could ask for more."""


def optimal_values(model: Model, gamma: float) -> Array:
    """q*, [S, A]: the expected return of each action when all later ones are optimal.

    The optimal values of the states are its maxima over actions. Found by value iteration, which
    needs nothing of the model but that its optimal values are finite.

    Raises:
        UserError: gamma is not in [0, 1], or is too large for values to converge.
    """
    return value_iteration(model, gamma)


def action_values(model: Model, v: Array, gamma: float) -> Array:
    """q [S, A] by one look ahead: r(s, a) + gamma sum_s' p(s' | s, a) v(s') (section 4.2)."""
    return model.reward + gamma * (model.transition @ v)


def greedy(q: Array) -> Array:
    """The policy [S, A] that always takes the best action, the first of those that tie."""
    best: Array = np.eye(q.shape[1])[q.argmax(axis=1)]
    return best


def optimal_actions(q: Array, tolerance: float = 1e-6) -> Mask:
    """Which actions are best, [S, A], with all that are at most `tolerance` worse counted in.

    A learned policy is to be compared with this set: where actions tie, any of them is right.
    """
    best: Mask = q >= q.max(axis=1, keepdims=True) - tolerance
    return best


def evaluate(model: Model, policy: Array, gamma: float) -> Array:
    """v [S] of a policy: the solution of v = r_pi + gamma P_pi v (section 4.1, eq. 4.4).

    Raises:
        UserError: gamma is not in [0, 1]; or it is 1, and the policy may go on for ever.
    """
    _check_gamma(gamma)
    transition, reward = _follow(model, policy)
    if gamma == 1 and not _always_ends(transition):
        raise UserError("gamma: 1, but the policy may never end an episode; use one below 1")
    solution = np.linalg.solve(np.eye(len(reward)) - gamma * transition, reward)
    return np.asarray(solution, dtype=np.float64)


def value_iteration(model: Model, gamma: float, tolerance: float = TOLERANCE) -> Array:
    """q* [S, A] by v <- max_a r + gamma P v (section 4.4).

    Raises:
        UserError: gamma is not in [0, 1], or the values do not converge.
    """
    v = np.zeros(len(model.reward))
    for _ in range(_iterations(gamma)):
        q = action_values(model, v, gamma)
        if _converged(v, q, gamma, tolerance):
            return q
        v = q.max(axis=1)
    raise _diverged(gamma)


def policy_iteration(model: Model, gamma: float, tolerance: float = TOLERANCE) -> Array:
    """q* [S, A] by evaluating a policy exactly, then making it greedy (section 4.3).

    An action is given up only for one that is better by more than `tolerance`: among equally good
    policies, rounding would otherwise move to and fro for ever.

    Raises:
        UserError: as `evaluate`. With gamma 1, all policies met on the way must end all episodes;
            the first takes actions at random.
    """
    states, actions = model.reward.shape
    policy = np.full((states, actions), 1 / actions)
    for _ in range(MAX_POLICIES):
        q = action_values(model, evaluate(model, policy, gamma), gamma)
        gain = q.max(axis=1) - (policy * q).sum(axis=1)
        if (gain <= tolerance).all():
            return q
        policy = np.where(gain[:, None] > tolerance, greedy(q), policy)
    raise _diverged(gamma)


def truncated_policy_iteration(
    model: Model, gamma: float, sweeps: int, tolerance: float = TOLERANCE
) -> Array:
    """q* [S, A] by policy iteration whose evaluation stops after `sweeps` sweeps.

    One sweep is value iteration, endlessly many are policy iteration (section 4.6; Puterman and
    Shin, "Modified policy iteration algorithms", Management Science 1978).

    Raises:
        UserError: gamma is not in [0, 1], the values do not converge, or there are no sweeps.
    """
    if sweeps < 1:
        raise UserError(f"sweeps: {sweeps}; at least 1")
    v = np.zeros(len(model.reward))
    for _ in range(_iterations(gamma)):
        q = action_values(model, v, gamma)
        if _converged(v, q, gamma, tolerance):
            return q
        transition, reward = _follow(model, greedy(q))
        for _ in range(sweeps):
            v = reward + gamma * (transition @ v)
    raise _diverged(gamma)


def _follow(model: Model, policy: Array) -> tuple[Array, Array]:
    """The Markov chain of a policy: P_pi [S, S] and the expected reward r_pi [S]."""
    transition = (policy[:, None, :] @ model.transition)[:, 0]
    return transition, (policy * model.reward).sum(axis=1)


def _converged(v: Array, q: Array, gamma: float, tolerance: float) -> bool:
    """Whether max_a q, made from v by one look ahead, is within `tolerance` of the optimum.

    The distance is at most gamma / (1 - gamma) of the last change, as a look ahead contracts by
    gamma. With gamma 1 there is no bound, and the change itself is what counts.
    """
    change = float(np.abs(q.max(axis=1) - v).max())
    allowed = tolerance * (1 - gamma) / gamma if 0 < gamma < 1 else tolerance
    # A change of a few roundings may never become smaller.
    rounding = 4 * np.finfo(np.float64).eps * float(np.abs(v).max())
    return change <= max(allowed, rounding)


def _always_ends(transition: Array) -> bool:
    """Whether an end can be reached from every state of the chain [S, S], so that it will be."""
    ends: Mask = transition.sum(axis=1) < 1 - 1e-9
    for _ in range(len(ends)):
        ends = ends | (transition[:, ends] > 0).any(axis=1)
    return bool(ends.all())


def _iterations(gamma: float) -> int:
    """How long to wait for values to converge.

    Raises:
        UserError: gamma is not in [0, 1].
    """
    _check_gamma(gamma)
    return MAX_ITERATIONS if gamma < 1 else MAX_UNDISCOUNTED


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma <= 1:
        raise UserError(f"gamma: {gamma}; between 0 and 1")


def _diverged(gamma: float) -> UserError:
    """The error of values that grow without bound, or too slowly to wait for."""
    return UserError(f"gamma: {gamma}; values do not converge, use a smaller one")
