"""One of several ranks, as a process of its own: trains on its share of a fixed batch."""

import sys
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces

from troupe.config import parse
from troupe.episodes import Ending, Episodes
from troupe.jobs.spec import NetworkSettings
from troupe.policies import ACTION, Spaces
from troupe_learners import algorithms
from troupe_learners.batches import Piece
from troupe_learners.ranks import Ranks
from troupe_learners.trainee import Hardware, Trainee

SEEN = Spaces({"state": spaces.Box(-5, 5, (3,), np.float32)}, spaces.Discrete(3))
CPU = torch.device("cpu")
ROLLOUT = 16


def piece(turn: int, slot: int, recurrent: int) -> Piece:
    random = np.random.default_rng([turn, slot])
    block = Episodes(
        policy="agent",
        actor=f"actor-{slot}",
        incarnation=0,
        attempt=1,
        observation={"state": random.normal(size=(ROLLOUT, 3)).astype(np.float32)},
        action={ACTION: random.integers(0, 3, ROLLOUT)},
        reward=random.normal(size=ROLLOUT).astype(np.float32),
        log_prob=np.full(ROLLOUT, np.log(1 / 3), np.float32),
        version=np.zeros(ROLLOUT, np.uint32),
        length=np.array([9, 7], np.int32),
        seat=np.zeros(2, np.uint8),
        group=np.array([turn, turn + 1]),
        ending=np.array([Ending.TERMINATED, Ending.CUT], np.uint8),
        final={"state": random.normal(size=(2, 3)).astype(np.float32)},
        initial={name: np.zeros((2, recurrent), np.float32) for name in "hc" if recurrent},
    )
    return Piece(block, {}, None, f"{turn}-{slot}")


def trained(ranks: Ranks, algorithm: dict[str, object], recurrent: int = 0) -> Trainee:
    """Two turns, of four actors that are dealt out to the ranks."""
    network = {"kind": "actor_critic", "hidden": 8, "layers": 1, "recurrent": recurrent, "normalise_observation": True, "normalise_reward": True}  # fmt: skip
    trainee = Trainee(
        "agent",
        SEEN,
        parse(NetworkSettings, network),
        algorithms.load(algorithm),
        Hardware(CPU, torch.float32, ranks),
        seed=1,
    )
    for turn in range(2):
        scalars = trainee.train(
            [piece(turn, s, recurrent) for s in range(4) if s % ranks.size == ranks.rank], 0.0
        )
    trainee.scalars = scalars  # type: ignore[attr-defined]
    return trainee


ALGORITHM: dict[str, object] = {"name": "ppo", "epochs": 3, "minibatches": 1, "target_kl": 10.0, "objective": "penalty"}  # fmt: skip

if __name__ == "__main__":
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    ranks = Ranks(rank, size, CPU, folder / "meeting", patience=60.0)
    whole = trained(ranks, ALGORITHM)
    divided = trained(ranks, {**ALGORITHM, "minibatches": 3})
    recurrent = trained(ranks, {**ALGORITHM, "minibatches": 3}, recurrent=4)
    assert ranks.least(rank + 3) == 3
    assert ranks.total(rank) == size * (size - 1) // 2
    ranks.close()
    named = (("whole", whole), ("divided", divided), ("recurrent", recurrent))
    columns = {f"{k}.{n}": t for k, trainee in named for n, t in trainee.weights().items()}
    columns |= {f"scalar.{n}": np.array(v) for n, v in whole.scalars.items()}  # type: ignore[attr-defined]
    np.savez(folder / f"rank-{rank}.npz", **columns)
