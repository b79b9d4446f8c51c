"""Tabular reinforcement learning: what can be known exactly, to judge what was only learned.

Read `model.py` (a Markov decision process as arrays), then `planning.py` (algorithms that know the
model), then `sampling.py` (algorithms that only play). All three follow Sutton and Barto,
"Reinforcement Learning: An Introduction", 2nd ed., 2018.

Everywhere, S states and A actions are numbered from 0; a policy is float [S, A], the probability of
each action; v is float [S], q is float [S, A]. What predicts returns v, what controls returns q.
"""

from troupe_learners.tabular.model import Array, Mask, Model, model_of
from troupe_learners.tabular.planning import (
    action_values,
    evaluate,
    greedy,
    optimal_actions,
    optimal_values,
    policy_iteration,
    truncated_policy_iteration,
    value_iteration,
)
from troupe_learners.tabular.sampling import (
    epsilon_greedy,
    monte_carlo_control,
    q_learning,
    sarsa,
    td_prediction,
)

__all__ = [
    "Array",
    "Mask",
    "Model",
    "action_values",
    "epsilon_greedy",
    "evaluate",
    "greedy",
    "model_of",
    "monte_carlo_control",
    "optimal_actions",
    "optimal_values",
    "policy_iteration",
    "q_learning",
    "sarsa",
    "td_prediction",
    "truncated_policy_iteration",
    "value_iteration",
]
