"""Off-policy algorithms that really learn, in one process: play, take in, train, play on."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch

from troupe import policies
from troupe.config import parse
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Steps
from troupe_actors.environments import Seeds, create, make
from troupe_actors.recorder import Author
from troupe_actors.rollout import EnvironmentLoop
from troupe_actors.selfplay import Exploration, Player
from troupe_learners import ddpg, dqn
from troupe_learners.batches import Piece
from troupe_learners.tabular import evaluate, greedy, model_of, value_iteration
from troupe_learners.trainee import Hardware, Trainee

CPU = torch.device("cpu")
MODULES = {"ddpg": ddpg, "dqn": dqn}


class Trained(NamedTuple):
    trainee: Trainee
    returns: list[float]
    """Of the episodes, in the order in which they ended."""


def train(
    algorithm: Mapping[str, object],
    environment: str,
    *,
    turns: int,
    environments: int,
    network: Mapping[str, object],
    exploration: Exploration,
    **options: object,
) -> Trained:
    """Turns of playing with the newest weights and training on what was played."""
    driver = create(environment, options, environments)
    module = MODULES[str(algorithm["name"])]
    settings = parse(module.Config, {k: v for k, v in algorithm.items() if k != "name"})
    own = module.defaults(settings, driver.spaces)["network"]
    assert isinstance(own, dict)
    wanted = parse(NetworkSettings, {**own, **network})
    learner = module.Algorithm(settings)
    trainee = Trainee("agent", driver.spaces, wanted, learner, Hardware(CPU, torch.float32), 1)
    acting = policies.create_acting(driver.spaces, wanted, CPU, torch.float32)
    player = Player("agent", ("agent",), driver.spaces, acting)
    loop = EnvironmentLoop(driver, player, 16, Author("actor-0", 0, 0))
    loop.begin(driver.reset(Seeds(1, "actor", 0)))
    random, returns = np.random.default_rng(1), []
    for turn in range(turns):
        acting.load(trainee.weights())
        played = loop.play(random, exploration(turn))
        returns += played.returns.tolist()
        trainee.train([Piece(played.block, {}, id=str(turn))], turn / turns)
    driver.close()
    return Trained(trainee, returns)


def against_the_optimum(
    trained: Trained, environment: str, gamma: float, **options: object
) -> tuple[float, float]:
    """What the greedy policy's episodes are worth, and what the best policy's would be."""
    model = model_of(make(environment, options))
    (name,) = create(environment, options, 1).spaces.observation
    states = Steps({name: torch.arange(len(model.start))})
    values = trained.trainee.policy.evaluate(states, {"values"})["values"]
    policy = greedy(values.detach().double().numpy())
    best = greedy(value_iteration(model, gamma))
    return tuple(float(model.start @ evaluate(model, p, gamma)) for p in (policy, best))


FROZEN_LAKE = {
    "name": "dqn",
    "gamma": 0.95,
    "learning_starts": 500,
    "batch": 128,
    "updates_per_step": 0.125,
    "target_every": 50,
    "optimizer": {"name": "adam", "lr": 1e-3},
}


def test_dqn_walks_on_slippery_ice_as_well_as_can_be() -> None:
    trained = train(
        FROZEN_LAKE,
        "FrozenLake-v1",
        turns=220,
        environments=16,
        network={"hidden": 64},
        exploration=Exploration(0.2, 1.0, 150),
    )
    mine, best = against_the_optimum(trained, "FrozenLake-v1", 0.95)
    assert mine > 0.97 * best, f"{mine} of {best}"


def test_dqn_with_every_option_finds_the_shortest_way() -> None:
    trained = train(
        {**FROZEN_LAKE, "n_step": 3, "duelling": True, "prioritised": {}, "double": False},
        "FrozenLake-v1",
        turns=60,
        environments=16,
        network={"hidden": 64},
        exploration=Exploration(0.2, 1.0, 50),
        is_slippery=False,
    )
    mine, best = against_the_optimum(trained, "FrozenLake-v1", 0.95, is_slippery=False)
    assert mine == pytest.approx(best) == pytest.approx(0.95**5)


def test_dqn_drives_a_taxi_nearly_as_well_as_can_be() -> None:
    trained = train(
        {
            **FROZEN_LAKE,
            "gamma": 0.9,
            "target_every": 30,
            "huber": None,
            "max_grad_norm": None,
            "optimizer": {"name": "adam", "lr": 3e-3},
        },
        "Taxi-v4",
        turns=200,
        environments=16,
        network={"hidden": 128, "layers": 1},
        exploration=Exploration(0.3, 1.0, 120),
    )
    mine, best = against_the_optimum(trained, "Taxi-v4", 0.9)
    assert mine > best - 0.2, f"{mine} of {best}; a random policy has -15"


@pytest.mark.parametrize(
    "options",
    [{}, {"twin": True, "policy_delay": 2, "smoothing": {}, "prioritised": {}}],
    ids=["ddpg", "td3"],
)
def test_ddpg_swings_a_pendulum_up(options: dict[str, object]) -> None:
    fast = {"name": "ddpg", "learning_starts": 500, "batch": 128, "tau": 0.01}
    trained = train(
        {**fast, **options},
        "Pendulum-v1",
        turns=225,
        environments=1,
        network={"hidden": 64},
        exploration=Exploration(0.1, 0.1, 0),
    )
    assert isinstance(trained.trainee.policy, torch.nn.Module)
    assert np.mean(trained.returns[:2]) < -700, "untrained, it swings at random"
    assert np.median(trained.returns[-5:]) > -400


def test_a_normaliser_sees_every_step_once() -> None:
    trained = train(
        {"name": "ddpg", "learning_starts": 50, "batch": 8},
        "Pendulum-v1",
        turns=6,
        environments=2,
        network={"hidden": 8, "normalise_observation": True},
        exploration=Exploration(0.1, 0.1, 0),
    )
    assert trained.trainee.weights()["inputs.moments.count"] == 6 * 2 * 16
