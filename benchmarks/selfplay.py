"""Decisions per second of self-play on one core: many tables at once, against a naive loop.

Both play Dou Dizhu with the same engine, the same networks and the same weights. The naive loop
plays one table: for every decision, forced ones included, each legal move is a row with an LSTM
pass of its own, on one thread. Rates are decisions per second of CPU time, forced ones included on
both sides; medians of alternating rounds.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from report import Report
from torch import Tensor

from troupe.jobs.spec import NetworkSettings
from troupe.policies import Spaces, create_acting
from troupe.policies.action_value import ActionValue
from troupe.policies.devices import multiplies_bf16
from troupe_actors import games
from troupe_actors.games import Game
from troupe_actors.recorder import Author
from troupe_actors.selfplay import Player, run_loop

EPSILON = 0.01
CPU = torch.device("cpu")


class Measured(NamedTuple):
    """One round of one loop."""

    rate: float
    """Decisions per second of CPU time."""
    network: float
    """Share of that time spent in the network; 0 where it was not measured."""


def naive(game: Game, models: Sequence[ActionValue], seed: int) -> Iterator[tuple[int, float]]:
    """One decision a turn; decisions so far, and CPU seconds spent in the network so far."""
    tables = game.tables(1, seed, skip_forced=False)
    random = np.random.default_rng(seed)
    spaces = [game.spaces(seat) for seat in range(len(game.seats))]
    turn, network = tables.turn(), 0.0
    while True:
        seat = int(turn.seat[0])
        moves = unpack(turn.legal, spaces[seat].action.shape)
        seen = {
            name: unpack(turn.observation[name], space.shape)
            for name, space in spaces[seat].observation.items()
        }
        state = np.concatenate([np.repeat(seen["state"], len(moves), 0), moves], 1)
        history = np.repeat(seen["history"], len(moves), 0).reshape(len(moves), 5, 162)
        begun = time.process_time()
        values = forward(models[seat], torch.from_numpy(history), torch.from_numpy(state))
        choice = int(values.argmax())
        network += time.process_time() - begun
        if random.random() < EPSILON:
            choice = int(random.integers(len(moves)))
        turn = tables.play(np.array([choice], np.int64))
        yield tables.decisions, network


def forward(model: ActionValue, history: Tensor, state: Tensor) -> Tensor:
    """[M]: the value of every row on its own."""
    assert model.memory is not None
    with torch.inference_mode():
        outputs, _ = model.memory(history)
        x = torch.cat([outputs[:, -1], state], 1)
        for layer in model.layers:
            x = torch.relu(layer(x))
        values: Tensor = model.value(x)
    return values[:, 0]


def unpack(rows: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """[n, bytes] -> float32 [n, bits]."""
    assert shape is not None
    bits = np.unpackbits(rows, axis=1, count=int(np.prod(shape)), bitorder="little")
    return bits.astype(np.float32)


def together(
    game: Game, models: Sequence[ActionValue], tables: int, precision: torch.dtype, seed: int
) -> Iterator[tuple[int, float]]:
    """The actor's loop; decisions so far, at every turn of all tables."""
    held = game.tables(tables, seed)
    players = [player(game, seat, model, precision) for seat, model in enumerate(models)]
    loop = run_loop(
        held,
        players,
        np.random.default_rng(seed),
        epsilon=EPSILON,
        block_steps=800,
        author=Author("actor-0", 0, 0),
    )
    for _ in loop:
        yield held.decisions, 0.0


def player(game: Game, seat: int, model: ActionValue, precision: torch.dtype) -> Player:
    spaces: Spaces = game.spaces(seat)
    acting = create_acting(spaces, NetworkSettings(), CPU, precision)
    acting.load({name: value.numpy() for name, value in model.state_dict().items()})
    return Player(game.seats[seat], (seat,), spaces, acting)


def measure(loop: Iterator[tuple[int, float]], seconds: float) -> Measured:
    """Run a loop for so many CPU seconds, from where it stands."""
    before, network_before = next(loop)
    begun = time.process_time()
    while (spent := time.process_time() - begun) < seconds:
        decisions, network = next(loop)
    return Measured((decisions - before) / spent, (network - network_before) / spent)


def main() -> int:
    report = Report("selfplay", __doc__)
    report.parser.add_argument("--tables", type=int, default=256)
    report.parser.add_argument("--seconds", type=float, default=1.0, help="CPU time a round")
    report.parser.add_argument("--rounds", type=int, default=12)
    options = report.arguments()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    game = games.load("doudizhu", {})
    models = [ActionValue(game.spaces(seat), NetworkSettings()) for seat in range(len(game.seats))]
    precisions = {"fp32": torch.float32}
    if multiplies_bf16(CPU):
        precisions["bf16"] = torch.bfloat16
    loops = {"naive": naive(game, models, 1)}
    for name, precision in precisions.items():
        loops[name] = together(game, models, options.tables, precision, 1)
    for loop in loops.values():  # compiled code is loaded, all shapes are met, games are mixed
        measure(loop, 2 * options.seconds)
    rounds = [
        {name: measure(loop, options.seconds) for name, loop in loops.items()}
        for _ in range(options.rounds)
    ]

    report.row("naive loop, one table", median(r["naive"].rate for r in rounds), "decisions/s")
    network = 100 * median(r["naive"].network for r in rounds)
    report.row("of that time in the network", network, "%", at_least=60)
    for name in precisions:
        rate = median(r[name].rate for r in rounds)
        times = median(r[name].rate / r["naive"].rate for r in rounds)
        line = {"fp32": 10, "bf16": 20}[name]
        report.row(f"{options.tables} tables, {name}", rate, "decisions/s")
        report.row(f"{name} against naive", times, "times", at_least=line)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
