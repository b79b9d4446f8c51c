"""A finite Markov decision process as dense arrays, and how to get it from an environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium import Env, Space
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from troupe.errors import UserError

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

Outcomes: TypeAlias = Sequence[tuple[float, int, float, bool]]
"""What may follow an action in Gymnasium's toy-text: probability, next state, reward, terminated."""


@dataclass(frozen=True, slots=True)
class Model:
    """The dynamics of S states and A actions (Sutton and Barto, sections 3.1 and 3.4).

    Terminal states need no row of their own: the probability that is missing from a row of
    `transition` is that of the episode's end, behind which every value is 0.

    Raises:
        UserError: the shapes do not agree, or the probabilities are none.
    """

    transition: Array
    """[S, A, S], the probability that the next state is s' and the episode goes on."""
    reward: Array
    """[S, A], the expected reward."""
    start: Array
    """[S], the probability that an episode starts in a state."""

    def __post_init__(self) -> None:
        states, actions = self.reward.shape
        if self.transition.shape != (states, actions, states) or self.start.shape != (states,):
            raise UserError(
                f"model: transition {self.transition.shape}, reward {self.reward.shape} and start "
                f"{self.start.shape} do not agree; they are [S, A, S], [S, A] and [S]"
            )
        going_on = self.transition.sum(axis=2)
        if self.transition.min() < 0 or going_on.max() > 1 + 1e-9:
            raise UserError(
                "model: each row of transition must be probabilities of at most 1 in all"
            )
        if self.start.min() < 0 or abs(self.start.sum() - 1) > 1e-9:
            raise UserError("model: start must be probabilities of 1 in all")


def model_of(env: Env[Any, Any]) -> Model:
    """The model that a toy-text environment carries (FrozenLake, Taxi, CliffWalking).

    Time limits are no part of it: its values are those of episodes that end only by termination.

    Raises:
        UserError: a space is not discrete, or the environment carries no model.
    """
    states, actions = count(env, "observation"), count(env, "action")
    outcomes: Mapping[int, Mapping[int, Outcomes]] | None = getattr(env.unwrapped, "P", None)
    start: Array | None = getattr(env.unwrapped, "initial_state_distrib", None)
    if outcomes is None or start is None:
        raise UserError(
            f"environment {name_of(env)}: carries no model; one with P and initial_state_distrib, "
            "such as FrozenLake-v1, is needed"
        )
    transition = np.zeros((states, actions, states))
    reward = np.zeros((states, actions))
    for state in range(states):
        for action in range(actions):
            for probability, next_state, outcome, terminated in outcomes[state][action]:
                reward[state, action] += probability * outcome
                transition[state, action, next_state] += probability * (not terminated)
    return Model(transition, reward, np.asarray(start, dtype=np.float64))


def count(env: Env[Any, Any], which: str) -> int:
    """How many elements the `observation` or `action` space of an environment has.

    Raises:
        UserError: the space is not discrete.
    """
    return int(discrete(env, which).n)


def discrete(env: Env[Any, Any], which: str) -> Discrete:
    """The `observation` or `action` space of an environment.

    Raises:
        UserError: it is not discrete.
    """
    space: Space[Any] = env.observation_space if which == "observation" else env.action_space
    if not isinstance(space, Discrete):
        raise UserError(
            f"environment {name_of(env)}: its {which} space is {space}; "
            "tabular algorithms need Discrete(n)"
        )
    return space


def name_of(env: Env[Any, Any]) -> str:
    """What to call an environment in a message."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
