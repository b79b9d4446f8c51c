"""One process that plays and learns in turns, with the parts of a real run and nothing between them."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch

from troupe import policies
from troupe.config import parse
from troupe.jobs.spec import NetworkSettings
from troupe_actors import environments
from troupe_actors.environments import Seeds
from troupe_actors.recorder import Author
from troupe_actors.rollout import EnvironmentLoop
from troupe_actors.selfplay import Player
from troupe_learners import algorithms
from troupe_learners.batches import Piece
from troupe_learners.ranks import Ranks
from troupe_learners.trainee import Hardware, Trainee

CPU = torch.device("cpu")
NETWORK = {"kind": "actor_critic", "hidden": 64, "layers": 2, "activation": "tanh", "recurrent": 0}


def train(
    environment: str,
    algorithm: Mapping[str, object],
    *,
    network: Mapping[str, object] = MappingProxyType({}),
    count: int,
    rollout: int,
    turns: int,
    seed: int = 1,
    enough: float = float("inf"),
) -> float:
    """The mean return of the last 50 episodes after so many turns, or when that is `enough`.

    `network` is put over what actors' and critics' networks are where a job says nothing.
    """
    driver = environments.create(environment, {}, count)
    settings = parse(NetworkSettings, {**NETWORK, **network})
    trainee = Trainee(
        "agent",
        driver.spaces,
        settings,
        algorithms.load(algorithm),
        Hardware(CPU, torch.float32, Ranks()),
        seed,
    )
    acting = policies.create_acting(driver.spaces, settings, CPU, torch.float32)
    acting.load(trainee.weights())
    player = Player("agent", (0,), driver.spaces, acting)
    loop = EnvironmentLoop(driver, player, rollout, Author("actor-0", 0, 1))
    loop.begin(driver.reset(Seeds(seed, "actor", 0)))
    random, returns = np.random.default_rng(seed), [0.0]
    for turn in range(turns):
        played = loop.play(random, exploration=1.0)
        returns += played.returns.tolist()
        if len(returns) > 50 and float(np.mean(returns[-50:])) >= enough:
            break
        piece = Piece(played.block, trainee.algorithm.credit(played.block))
        trainee.train([piece], turn / turns)
        acting.load(trainee.weights())
        player.version = trainee.updates
    driver.close()
    return float(np.mean(returns[-50:]))
