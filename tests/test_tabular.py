"""The tabular oracle: hand-computed values, agreement of independent algorithms, ends of episodes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.envs.toy_text.taxi import TaxiEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import TimeLimit
from numpy.random import default_rng

from troupe.errors import UserError
from troupe_learners.tabular import (
    Array,
    action_values,
    epsilon_greedy,
    evaluate,
    greedy,
    model_of,
    monte_carlo_control,
    optimal_actions,
    optimal_values,
    policy_iteration,
    q_learning,
    sarsa,
    td_prediction,
    truncated_policy_iteration,
    value_iteration,
)

Outcome = tuple[float, int, float, bool]


class Listed(gymnasium.Env[Any, Any]):
    """An environment that is its list of outcomes, by state and action; may count from elsewhere."""

    def __init__(
        self,
        outcomes: Mapping[int, Mapping[int, list[Outcome]]],
        start: list[float],
        first_state: int = 0,
        first_action: int = 0,
    ) -> None:
        self.P = outcomes
        self.initial_state_distrib = np.array(start)
        self.observation_space = Discrete(len(outcomes), start=first_state)
        self.action_space = Discrete(len(outcomes[0]), start=first_action)
        self.first_state, self.first_action = first_state, first_action
        self.state = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.choice(len(self.P), p=self.initial_state_distrib)
        return self.first_state + self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        outcomes = self.P[self.state][action - self.first_action]
        drawn = self.np_random.choice(len(outcomes), p=[outcome[0] for outcome in outcomes])
        _, self.state, reward, terminated = outcomes[drawn]
        return self.first_state + self.state, reward, terminated, False, {}


# State 0: stay for 1, or go to state 1. State 1: go back, or win 20 and end with probability 1/2,
# else win 4 and stay.
CHAIN = Listed(
    {
        0: {0: [(1.0, 0, 1.0, False)], 1: [(1.0, 1, 0.0, False)]},
        1: {0: [(1.0, 0, 0.0, False)], 1: [(0.5, 1, 20.0, True), (0.5, 1, 4.0, False)]},
    },
    start=[1.0, 0.0],
)
# With gamma 0.9: v(1) = 12 + 0.45 v(1) = 240/11; v(0) = 0.9 v(1) = 216/11.
CHAIN_OPTIMUM = [[1 + 0.9 * 216 / 11, 216 / 11], [0.9 * 216 / 11, 240 / 11]]

PROBLEMS: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {
    "chain": lambda: CHAIN,
    "lake": lambda: FrozenLakeEnv(is_slippery=False),
    "slippery lake": lambda: FrozenLakeEnv(is_slippery=True),
    "large lake": lambda: FrozenLakeEnv(map_name="8x8"),
    "cliff": CliffWalkingEnv,
    "taxi": TaxiEnv,
}


def value(env: gymnasium.Env[Any, Any], q: Array, gamma: float) -> float:
    """The expected return of being greedy in q from the start, without a time limit."""
    model = model_of(env)
    return float(model.start @ evaluate(model, greedy(q), gamma))


def optimum(env: gymnasium.Env[Any, Any], gamma: float) -> float:
    model = model_of(env)
    return float(model.start @ optimal_values(model, gamma).max(axis=1))


# --- The model ---


def test_a_model_holds_expected_rewards_and_leaves_out_what_ends() -> None:
    model = model_of(CHAIN)
    assert model.reward.tolist() == [[1.0, 0.0], [0.0, 12.0]]
    assert model.transition.tolist() == [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.5]]]
    assert model.start.tolist() == [1.0, 0.0]


def test_a_model_that_is_none_is_refused() -> None:
    model = model_of(CHAIN)
    with pytest.raises(UserError, match="do not agree"):
        replace(model, start=np.ones(3) / 3)
    with pytest.raises(UserError, match="at most 1"):
        replace(model, transition=model.transition * 1.5)
    with pytest.raises(UserError, match="start"):
        replace(model, start=np.array([0.5, 0.0]))


# --- Planning ---


def test_the_chain_has_the_values_computed_by_hand() -> None:
    model = model_of(CHAIN)
    q = optimal_values(model, 0.9)
    np.testing.assert_allclose(q, CHAIN_OPTIMUM, atol=1e-9)
    assert greedy(q).tolist() == [[0.0, 1.0], [0.0, 1.0]]
    stay_or_go = np.array([[1.0, 0.0], [0.5, 0.5]])
    # v(0) = 1 / (1 - 0.9) = 10; v(1) = (0.9 * 10 + 12 + 0.45 v(1)) / 2 = 10.5 / 0.775.
    np.testing.assert_allclose(evaluate(model, stay_or_go, 0.9), [10.0, 10.5 / 0.775])


@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("name", PROBLEMS)
def test_all_planners_agree(name: str, gamma: float) -> None:
    model = model_of(PROBLEMS[name]())
    expected = policy_iteration(model, gamma)
    for q in (
        value_iteration(model, gamma),
        truncated_policy_iteration(model, gamma, sweeps=1),
        truncated_policy_iteration(model, gamma, sweeps=7),
    ):
        np.testing.assert_allclose(q, expected, atol=1e-9)
        assert (optimal_actions(q) == optimal_actions(expected)).all()
    optimal = action_values(model, expected.max(axis=1), gamma)
    np.testing.assert_allclose(optimal, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "gamma", "expected"),
    [
        ("lake", 0.9, 0.9**5),
        ("slippery lake", 1.0, 14 / 17),
        ("cliff", 1.0, -13.0),
        # 500 states by hand are too many: the mean over starts that is published for Taxi.
        ("taxi", 1.0, 7.93),
    ],
)
def test_known_optima(name: str, gamma: float, expected: float) -> None:
    assert optimum(PROBLEMS[name](), gamma) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_evaluation_solves_the_bellman_equation(name: str) -> None:
    model = model_of(PROBLEMS[name]())
    states, actions = model.reward.shape
    policy = default_rng(1).dirichlet(np.ones(actions), size=states)
    v = evaluate(model, policy, 0.95)
    residual = (policy * action_values(model, v, 0.95)).sum(axis=1) - v
    assert np.abs(residual).max() < 1e-8
    swept = np.zeros(states)
    for _ in range(600):
        swept = (policy * action_values(model, swept, 0.95)).sum(axis=1)
    np.testing.assert_allclose(v, swept, atol=1e-8)


def test_truncation_of_policy_iteration_saves_backups_not_accuracy() -> None:
    model = model_of(FrozenLakeEnv())
    with pytest.raises(UserError, match="sweeps: 0"):
        truncated_policy_iteration(model, 0.9, sweeps=0)
    exact = policy_iteration(model, 0.999)
    coarse = truncated_policy_iteration(model, 0.999, sweeps=50, tolerance=1e-3)
    assert 0 < np.abs(coarse - exact).max() < 1e-3


def test_actions_that_tie_are_all_optimal() -> None:
    model = model_of(FrozenLakeEnv(is_slippery=False))
    q = optimal_values(model, 0.9)
    down, right = 1, 2
    assert np.flatnonzero(optimal_actions(q)[0]).tolist() == [down, right]
    assert greedy(q)[0].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert optimal_actions(np.array([[1.0, 0.95, 0.8]]), tolerance=0.1).tolist() == [
        [True, True, False]
    ]


def test_a_discount_that_has_no_values_is_a_users_mistake() -> None:
    model = model_of(CHAIN)
    stay = np.array([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(UserError, match="may never end"):
        evaluate(model, stay, 1.0)
    with pytest.raises(UserError, match=r"gamma: 1\.5"):
        optimal_values(model, 1.5)
    go = np.array([[0.0, 1.0], [0.0, 1.0]])
    assert evaluate(model, go, 1.0).tolist() == pytest.approx([24.0, 24.0])


def test_values_that_grow_for_ever_are_a_users_mistake_but_large_ones_are_not() -> None:
    model = model_of(CHAIN)
    for gamma in (1.0, 1.5):
        with pytest.raises(UserError, match="gamma: 1"):
            optimal_values(model, gamma)
        with pytest.raises(UserError, match="gamma: 1"):
            truncated_policy_iteration(model, gamma, sweeps=3)
    always = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert evaluate(model, always, 0.999)[0] == pytest.approx(1000)
    # Staying, for 1 at each step, is worth more than any end: v(0) = 1 / (1 - gamma).
    assert optimal_values(model, 0.999)[0, 0] == pytest.approx(1000)


# --- Sampling ---


def limited(env: gymnasium.Env[Any, Any], steps: int) -> gymnasium.Env[Any, Any]:
    return TimeLimit(env, max_episode_steps=steps)


def test_td_prediction_approaches_the_values_of_a_policy() -> None:
    policy = np.array([[0.2, 0.8], [0.3, 0.7]])
    expected = evaluate(model_of(CHAIN), policy, 0.5)
    v = td_prediction(CHAIN, policy, 0.5, default_rng(0), episodes=4000, alpha=0.005)
    np.testing.assert_allclose(v, expected, rtol=0.1)


@pytest.mark.parametrize("algorithm", ["q_learning", "sarsa", "monte_carlo"])
@pytest.mark.parametrize("seed", [1, 2])
def test_control_finds_the_way_over_the_lake(algorithm: str, seed: int) -> None:
    env = limited(FrozenLakeEnv(is_slippery=False), 100)
    q = control(algorithm, env, 0.95, seed, episodes=1500)
    assert value(env, q, 0.95) == pytest.approx(0.95**5)


def test_q_learning_is_near_the_optimum_on_slippery_ice() -> None:
    env = limited(FrozenLakeEnv(), 100)
    q = q_learning(env, 0.95, default_rng(3), episodes=3000, alpha=0.05, epsilon=0.3)
    assert value(env, q, 0.95) > 0.97 * optimum(env, 0.95)


def test_sarsa_minds_its_own_exploration_and_q_learning_does_not() -> None:
    """Sutton and Barto, example 6.6: the shortest way leads along the cliff, a safe one does not."""
    env, model = limited(CliffWalkingEnv(), 500), model_of(CliffWalkingEnv())

    def return_when_exploring(q: Array) -> float:
        policy = 0.9 * greedy(q) + 0.1 / q.shape[1]
        return float(model.start @ evaluate(model, policy, 1.0))

    bold = q_learning(env, 1.0, default_rng(0), episodes=500, alpha=0.5, epsilon=0.1)
    safe = sarsa(env, 1.0, default_rng(0), episodes=1500, alpha=0.1, epsilon=0.1)
    # Cells that were never seen may send the walker round in circles: judged with gamma below 1.
    assert value(env, bold, 0.9999) == pytest.approx(-13, abs=0.1)
    assert return_when_exploring(safe) > return_when_exploring(bold) + 10


# Leads from 0 to 1 and from 1 to 1, where each step wins 1: with gamma 1/2, v = [1, 2].
WALK = {
    0: {0: [(1.0, 1, 0.0, False)], 1: [(1.0, 1, 0.0, False)]},
    1: {0: [(1.0, 1, 1.0, False)], 1: [(1.0, 1, 1.0, False)]},
}


@pytest.mark.parametrize("algorithm", ["q_learning", "sarsa", "monte_carlo", "td"])
def test_a_truncated_episode_keeps_the_value_of_its_last_state(algorithm: str) -> None:
    """Every episode is truncated after its first step, so all that is learned is bootstrapped.

    Taken for terminal, v would be [0, 1]; from the state before, [0, 2]; from the next episode's
    first, [0.5, 1.5].
    """
    env = limited(Listed(WALK, start=[0.5, 0.5]), 1)
    v = control(algorithm, env, 0.5, seed=0, episodes=6000)
    np.testing.assert_allclose(v if v.ndim == 1 else v.max(axis=1), [1.0, 2.0], atol=0.1)


@pytest.mark.parametrize("algorithm", ["q_learning", "sarsa", "monte_carlo", "td"])
def test_a_terminated_episode_has_nothing_behind_it(algorithm: str) -> None:
    """Both flags may be set: a termination at the time limit is a termination."""
    ending = {
        state: {action: [(1.0, 1, 1.0, True)] for action in outcomes}
        for state, outcomes in WALK.items()
    }
    env = limited(Listed(ending, start=[0.5, 0.5]), 1)
    v = control(algorithm, env, 0.5, seed=0, episodes=300)
    assert v.max() <= 1 + 1e-12
    np.testing.assert_allclose(v if v.ndim == 1 else v.max(axis=1), [1.0, 1.0], atol=1e-3)


@pytest.mark.parametrize("algorithm", ["q_learning", "sarsa", "monte_carlo", "td"])
def test_one_seed_gives_one_result_wherever_the_spaces_start(algorithm: str) -> None:
    def learn(seed: int, first_state: int = 0, first_action: int = 0) -> list[float]:
        env = Listed(CHAIN.P, [1.0, 0.0], first_state, first_action)
        result: list[float] = control(algorithm, env, 0.9, seed, episodes=20).tolist()
        return result

    assert learn(5) == learn(5) == learn(5, first_state=10, first_action=-1)
    assert learn(5) != learn(6)


def test_epsilon_greedy_breaks_ties_evenly_and_explores() -> None:
    random = default_rng(0)
    q = np.array([1.0, 0.0, 1.0, 0.5])
    drawn = np.bincount([epsilon_greedy(q, 0.2, random) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(drawn, [0.45, 0.05, 0.45, 0.05], atol=0.03)


def control(
    algorithm: str, env: gymnasium.Env[Any, Any], gamma: float, seed: int, episodes: int
) -> Array:
    random = default_rng(seed)
    if algorithm == "q_learning":
        return q_learning(env, gamma, random, episodes=episodes, alpha=0.1, epsilon=0.2)
    if algorithm == "sarsa":
        return sarsa(env, gamma, random, episodes=episodes, alpha=0.1, epsilon=0.2)
    if algorithm == "monte_carlo":
        return monte_carlo_control(env, gamma, random, episodes=episodes, epsilon=0.2)
    either = np.full(model_of(env).reward.shape, 0.5)
    return td_prediction(env, either, gamma, random, episodes=episodes, alpha=0.1)


# --- What is refused ---


class Undescribed(gymnasium.Env[Any, Any]):
    """Spaces and nothing else."""

    def __init__(self, observation_space: gymnasium.Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = Discrete(2)


def test_spaces_that_are_not_discrete_are_refused() -> None:
    box = Undescribed(Box(0.0, 1.0, (2,)))
    with pytest.raises(
        UserError, match=r"Undescribed: its observation space is Box.*Discrete\(n\)"
    ):
        q_learning(box, 0.9, default_rng(0), episodes=1, alpha=0.1, epsilon=0.1)
    with pytest.raises(UserError, match=r"MountainCarContinuous-v0: its observation space"):
        model_of(gymnasium.make("MountainCarContinuous-v0"))
    unplayable = Undescribed(Discrete(3))
    unplayable.action_space = Box(-1.0, 1.0, (1,))
    with pytest.raises(UserError, match="its action space is Box"):
        sarsa(unplayable, 0.9, default_rng(0), episodes=1, alpha=0.1, epsilon=0.1)


def test_an_environment_without_a_model_is_refused() -> None:
    with pytest.raises(UserError, match="carries no model"):
        model_of(Undescribed(Discrete(3)))
