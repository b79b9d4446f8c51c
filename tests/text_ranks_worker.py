"""One of several ranks, as a process of its own: trains a language model on its share of a batch."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from texts import CPU, WORDS, block

from troupe.config import parse
from troupe.episodes import Array, Columns
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Spaces
from troupe_learners import algorithms
from troupe_learners.batches import Piece
from troupe_learners.ranks import Ranks
from troupe_learners.trainee import Hardware, Trainee

SGD = {"name": "sgd", "lr": 0.05}
ADAMW = {"name": "adamw", "lr": 0.01, "eps": 1e-3, "weight_decay": 0.1}
WAYS: dict[str, dict[str, object]] = {
    "grpo": {"name": "grpo", "epochs": 2, "kl": {"coefficient": 0.1}, "micro_batch": 20},
    "dapo": {"name": "grpo", "relative": "dapo", "truncated": "mask"},
    "reinforce++": {"name": "grpo", "relative": "reinforce++", "kl": {"coefficient": 0.1}},
    "kimi": {"name": "grpo", "relative": "kimi"},
    "ppo": {"name": "ppo", "epochs": 2, "minibatches": 1, "trust": None},
}
HEAD = {"reference": True, "value": "head"}
DIVIDED: dict[str, tuple[dict[str, object], dict[str, object], torch.dtype]] = {
    # Clipped; of one rank more micro-batches than of the other; a value that no loss depends on.
    "grpo": (WAYS["grpo"] | {"max_grad_norm": 0.1, "optimizer": ADAMW}, HEAD, torch.float32),
    "ppo": (WAYS["ppo"] | {"reference_kl": 0.1, "micro_batch": 20}, HEAD, torch.float32),
    "critic": (WAYS["ppo"] | {"micro_batch": 12}, {"value": "model"}, torch.float32),
    "adapters": (
        WAYS["grpo"],
        {"reference": True, "lora": {"rank": 2}, "checkpointing": True},
        torch.float32,
    ),
    "bf16": (WAYS["dapo"], {"checkpointing": True, "packing": "rows"}, torch.bfloat16),
}
"""What is trained by ranks with a share of every parameter: algorithm, language model, precision."""


def pieces(turn: int, rank: int, size: int) -> list[Piece]:
    """Four actors, dealt out to the ranks, with other lengths each."""
    lengths = [((3, 1), (4, 6)), ((2, 2),), ((7, 1, 1), (1, 2)), ((5, 4),)]
    return [
        Piece(block((3, 2)[: len(of)], of, seed=10 * turn + slot, slot=slot, truncated=(1,)), {})
        for slot, of in enumerate(lengths)
        if slot % size == rank
    ]


def learner(
    folder: Path,
    ranks: Ranks,
    algorithm: dict[str, object],
    language: dict[str, object] = HEAD,
    dtype: torch.dtype = torch.float32,
    divided: bool = False,
) -> Trainee:
    seen = Spaces({}, spaces.Discrete(WORDS))
    network = {"kind": "language", "language": {"model": str(folder), **language}}
    return Trainee(
        "agent",
        seen,
        parse(NetworkSettings, network),
        algorithms.load({"optimizer": SGD, **algorithm}),
        Hardware(CPU, dtype, ranks, divided),
        seed=1,
    )


def train(trainee: Trainee, ranks: Ranks, *turns: int) -> Trainee:
    for turn in turns:
        trainee.scalars = trainee.train(pieces(turn, ranks.rank, ranks.size), 0.0)  # type: ignore[attr-defined]
    return trainee


def trained(folder: Path, ranks: Ranks, algorithm: dict[str, object], turns: int = 2) -> Trainee:
    return train(learner(folder, ranks, algorithm), ranks, *range(turns))


def named(prefix: str, columns: Columns) -> dict[str, Array]:
    return {f"{prefix}.{name}": column for name, column in columns.items()}


def below(prefix: str, columns: Columns) -> dict[str, Array]:
    return {n.removeprefix(f"{prefix}."): c for n, c in columns.items() if n.startswith(f"{prefix}.")}  # fmt: skip


def go_on(trainee: Trainee, saved: Columns) -> Trainee:
    """From what was saved behind the first turn, however its parameters lay."""
    trainee.restore(1, below("weights", saved), below("state", saved), None, {})
    return trainee


def divided(folder: Path, ranks: Ranks, out: Path) -> tuple[dict[str, Array], dict[str, object]]:
    columns: dict[str, Array] = {}
    scalars = {}
    for name, (algorithm, language, dtype) in DIVIDED.items():
        trainee = learner(folder, ranks, algorithm, language, dtype, True)
        train(trainee, ranks, 0)
        if name == "grpo":
            columns |= named("saved.weights", trainee.weights())
            columns |= named("saved.state", trainee.state())
        train(trainee, ranks, 1)
        columns |= named(f"divided.{name}", trainee.weights())
        scalars[f"divided.{name}"] = trainee.scalars  # type: ignore[attr-defined]
    saved = dict(np.load(out / "saved.npz"))
    if not ranks.first:  # files of tensors have no order
        saved = dict(reversed(saved.items()))
    again = go_on(learner(folder, ranks, *DIVIDED["grpo"], divided=True), saved)
    columns |= named("again.weights", train(again, ranks, 1).weights())
    columns |= named("again.state", again.state())
    return columns, scalars


if __name__ == "__main__":
    rank, size = int(sys.argv[1]), int(sys.argv[2])
    folder, out = Path(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    ranks = Ranks(rank, size, CPU, out / "meeting", arrival=200.0, patience=60.0)
    columns, scalars = divided(folder, ranks, out)
    for name, algorithm in WAYS.items():
        trainee = trained(folder, ranks, algorithm)
        columns |= named(name, trainee.weights())
        scalars[name] = trainee.scalars  # type: ignore[attr-defined]
    ranks.close()
    np.savez(out / f"rank-{rank}.npz", **columns)
    (out / f"rank-{rank}.json").write_text(json.dumps(scalars))
