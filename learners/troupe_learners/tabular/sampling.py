"""Learning from episodes, without a model (Sutton and Barto, chapters 5 and 6).

The algorithms play any Gymnasium environment whose spaces are discrete. All chance comes from the
caller's generator: it seeds every episode and draws every action.

An episode that terminated has a value of 0 behind it. One that was truncated has only gone unseen:
its last state keeps its value (Pardo et al., "Time limits in reinforcement learning", ICML 2018).
Only an environment with a time limit is sure to end every episode.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Env
from numpy.random import Generator

from troupe_learners.tabular.model import Array, count, discrete


class Transition(NamedTuple):
    """One step of an episode."""

    state: int
    action: int
    reward: float
    next_state: int
    terminated: bool
    truncated: bool


def td_prediction(
    env: Env[Any, Any],
    policy: Array,
    gamma: float,
    random: Generator,
    *,
    episodes: int,
    alpha: float,
) -> Array:
    """v [S] of a policy [S, A] by TD(0) (section 6.1).

    Args:
        env: discrete spaces of S observations and A actions.
        policy: [S, A].
        gamma: discount per step.
        random: for the environment's seeds and the policy's actions.
        episodes: how many to play.
        alpha: how far each update goes towards its target.

    Raises:
        UserError: a space is not discrete.
    """
    table = Table(env, random)
    v = np.zeros(table.states)

    def choose(state: int) -> int:
        return int(random.choice(table.actions, p=policy[state]))

    for step in table.play(choose, episodes):
        ahead = 0.0 if step.terminated else v[step.next_state]
        v[step.state] += alpha * (step.reward + gamma * ahead - v[step.state])
    return v


def q_learning(
    env: Env[Any, Any],
    gamma: float,
    random: Generator,
    *,
    episodes: int,
    alpha: float,
    epsilon: float,
) -> Array:
    """q [S, A] of the greedy policy, learned while playing an epsilon-greedy one (section 6.5).

    Arguments and errors are those of `td_prediction`; epsilon is the share of random actions.
    """
    table = Table(env, random)
    q = np.zeros((table.states, table.actions))

    def choose(state: int) -> int:
        return epsilon_greedy(q[state], epsilon, random)

    for step in table.play(choose, episodes):
        ahead = 0.0 if step.terminated else q[step.next_state].max()
        target = step.reward + gamma * ahead
        q[step.state, step.action] += alpha * (target - q[step.state, step.action])
    return q


def sarsa(
    env: Env[Any, Any],
    gamma: float,
    random: Generator,
    *,
    episodes: int,
    alpha: float,
    epsilon: float,
) -> Array:
    """q [S, A] of the epsilon-greedy policy that is played (section 6.4).

    Arguments and errors are those of `q_learning`. The action that a target looks ahead to is the
    one that is then played; behind a truncation it is drawn, but there is nothing left to play.
    """
    table = Table(env, random)
    q = np.zeros((table.states, table.actions))
    for _ in range(episodes):
        state, over = table.reset(), False
        action = epsilon_greedy(q[state], epsilon, random)
        while not over:
            step = table.step(state, action)
            next_action = epsilon_greedy(q[step.next_state], epsilon, random)
            ahead = 0.0 if step.terminated else q[step.next_state, next_action]
            q[state, action] += alpha * (step.reward + gamma * ahead - q[state, action])
            state, action = step.next_state, next_action
            over = step.terminated or step.truncated
    return q


def monte_carlo_control(
    env: Env[Any, Any],
    gamma: float,
    random: Generator,
    *,
    episodes: int,
    epsilon: float,
) -> Array:
    """q [S, A] of the epsilon-soft policy that is played, by every-visit averages (section 5.4).

    Arguments and errors are those of `q_learning`. The rewards after a truncation are unknown; what
    the policy expects of them by now takes their place.
    """
    table = Table(env, random)
    q = np.zeros((table.states, table.actions))
    visits = np.zeros((table.states, table.actions), dtype=np.int64)

    def choose(state: int) -> int:
        return epsilon_greedy(q[state], epsilon, random)

    episode: list[Transition] = []
    for step in table.play(choose, episodes):
        episode.append(step)
        if not (step.terminated or step.truncated):
            continue
        beyond = q[step.next_state]
        expected = (1 - epsilon) * beyond.max() + epsilon * beyond.mean()
        total = 0.0 if step.terminated else float(expected)
        for state, action, reward, *_ in reversed(episode):
            total = reward + gamma * total
            visits[state, action] += 1
            q[state, action] += (total - q[state, action]) / visits[state, action]
        episode.clear()
    return q


def epsilon_greedy(q: Array, epsilon: float, random: Generator) -> int:
    """An action: with probability epsilon any, else one of those that tie for best.

    Args:
        q: [A], the values of one state's actions.
        epsilon: probability.
        random: draws.
    """
    if random.random() < epsilon:
        return int(random.integers(len(q)))
    best = np.flatnonzero(q == q.max())
    return int(best[random.integers(len(best))])


@dataclass(frozen=True, slots=True)
class Table:
    """An environment whose states and actions are numbered from 0.

    Raises:
        UserError: a space is not discrete.
    """

    env: Env[Any, Any]
    random: Generator

    def __post_init__(self) -> None:
        discrete(self.env, "observation")
        discrete(self.env, "action")

    @property
    def states(self) -> int:
        """S."""
        return count(self.env, "observation")

    @property
    def actions(self) -> int:
        """A."""
        return count(self.env, "action")

    def reset(self) -> int:
        """Start an episode; its first state."""
        observation, _ = self.env.reset(seed=int(self.random.integers(2**31)))
        return self._state(observation)

    def step(self, state: int, action: int) -> Transition:
        """Take an action in the state that the environment is in."""
        first = int(discrete(self.env, "action").start)
        observation, reward, terminated, truncated, _ = self.env.step(first + action)
        return Transition(
            state, action, float(reward), self._state(observation), terminated, truncated
        )

    def play(self, choose: Callable[[int], int], episodes: int) -> Iterator[Transition]:
        """The steps of some episodes; each action is chosen after the step before was used."""
        for _ in range(episodes):
            state, over = self.reset(), False
            while not over:
                step = self.step(state, choose(state))
                yield step
                state, over = step.next_state, step.terminated or step.truncated

    def _state(self, observation: int | np.integer[Any]) -> int:
        return int(observation) - int(discrete(self.env, "observation").start)
