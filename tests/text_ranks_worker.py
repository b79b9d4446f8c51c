"""One of several ranks, as a process of its own: trains a language model on its share of a batch."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from texts import CPU, WORDS, block

from troupe.config import parse
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Spaces
from troupe_learners import algorithms
from troupe_learners.batches import Piece
from troupe_learners.ranks import Ranks
from troupe_learners.trainee import Hardware, Trainee

SGD = {"name": "sgd", "lr": 0.05}
WAYS: dict[str, dict[str, object]] = {
    "grpo": {"name": "grpo", "epochs": 2, "kl": {"coefficient": 0.1}, "micro_batch": 20},
    "dapo": {"name": "grpo", "relative": "dapo", "truncated": "mask"},
    "reinforce++": {"name": "grpo", "relative": "reinforce++", "kl": {"coefficient": 0.1}},
    "kimi": {"name": "grpo", "relative": "kimi"},
    "ppo": {"name": "ppo", "epochs": 2, "minibatches": 1, "trust": None},
}


def pieces(turn: int, rank: int, size: int) -> list[Piece]:
    """Four actors, dealt out to the ranks, with other lengths each."""
    lengths = [((3, 1), (4, 6)), ((2, 2),), ((7, 1, 1), (1, 2)), ((5, 4),)]
    return [
        Piece(block((3, 2)[: len(of)], of, seed=10 * turn + slot, slot=slot, truncated=(1,)), {})
        for slot, of in enumerate(lengths)
        if slot % size == rank
    ]


def trained(folder: Path, ranks: Ranks, algorithm: dict[str, object], turns: int = 2) -> Trainee:
    seen = Spaces({}, spaces.Discrete(WORDS))
    language = {"model": str(folder), "reference": True, "value": "head"}
    network = parse(NetworkSettings, {"kind": "language", "language": language})
    chosen = algorithms.load({**algorithm, "optimizer": SGD})
    trainee = Trainee("agent", seen, network, chosen, Hardware(CPU, torch.float32, ranks), seed=1)
    for turn in range(turns):
        trainee.scalars = trainee.train(pieces(turn, ranks.rank, ranks.size), 0.0)  # type: ignore[attr-defined]
    return trainee


if __name__ == "__main__":
    rank, size, folder, out = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        Path(sys.argv[3]),
        Path(sys.argv[4]),
    )
    torch.set_num_threads(1)
    ranks = Ranks(rank, size, CPU, out / "meeting", patience=60.0)
    columns, scalars = {}, {}
    for name, algorithm in WAYS.items():
        trainee = trained(folder, ranks, algorithm)
        columns |= {f"{name}.{n}": tensor for n, tensor in trainee.weights().items()}
        scalars[name] = trainee.scalars  # type: ignore[attr-defined]
    ranks.close()
    np.savez(out / f"rank-{rank}.npz", **columns)
    (out / f"rank-{rank}.json").write_text(json.dumps(scalars))
