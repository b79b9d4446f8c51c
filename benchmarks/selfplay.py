"""Decisions per second of self-play on one core: many tables at once, against a naive loop.

Both play Dou Dizhu by the same engine, networks and weights, and record the same blocks. The naive
loop plays one table and runs the network for every decision, forced ones included, with each legal
move a row that has an LSTM pass of its own. Rates are decisions per second of CPU time, forced ones
included on both sides; medians of alternating rounds.
"""

import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from report import Report
from torch import Tensor

from troupe.episodes import Array, Columns
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Acting, Choices, Decisions, create_acting
from troupe.policies.action_value import ActionValue
from troupe.policies.choosing import epsilon_greedy
from troupe.policies.devices import multiplies_bf16
from troupe_actors import games
from troupe_actors.games import Game
from troupe_actors.recorder import Author
from troupe_actors.selfplay import Exploration, Player, run_loop

NETWORK = NetworkSettings()
CPU = torch.device("cpu")
LINES = {"fp32": 10, "bf16": 20}


class Naive:
    """`Acting` as it is first written: every legal action is a row of its own."""

    network_seconds = 0.0
    """CPU time that all of them have spent in networks."""

    def __init__(self, model: ActionValue) -> None:
        self._model = model
        self._layout = model.layout

    def act(
        self, decisions: Decisions, random: np.random.Generator, exploration: float = 0.0
    ) -> Choices:
        return epsilon_greedy(self.values(decisions), decisions, random, exploration)

    def initial(self, count: int) -> Columns:
        return {}

    def values(self, decisions: Decisions) -> NDArray[np.float32]:
        rows = np.repeat(np.arange(len(decisions.offsets) - 1), np.diff(decisions.offsets))
        state = _bits(decisions.observation["state"], self._layout.state)[rows]
        moves = _bits(decisions.observation["history"], self._layout.rows * self._layout.width)
        history = moves[rows].reshape(len(rows), self._layout.rows, self._layout.width)
        action = _bits(decisions.legal, self._layout.action)
        inputs = torch.from_numpy(np.concatenate([state, action], 1))
        begun = time.process_time()
        values = self._forward(torch.from_numpy(history), inputs)
        Naive.network_seconds += time.process_time() - begun
        result: NDArray[np.float32] = values.numpy()
        return result

    def load(self, tensors: Mapping[str, Array]) -> None:
        raise NotImplementedError("it is made with its weights")

    def _forward(self, history: Tensor, inputs: Tensor) -> Tensor:
        assert self._model.memory is not None
        with torch.no_grad():
            outputs, _ = self._model.memory(history)
            x = torch.cat([outputs[:, -1], inputs], 1)
            for layer in self._model.layers:
                x = torch.relu(layer(x))
            values: Tensor = self._model.value(x)
        return values[:, 0]


def _bits(rows: Array, count: int) -> NDArray[np.float32]:
    """[n, bytes] -> [n, count]."""
    return np.unpackbits(rows, axis=1, count=count, bitorder="little").astype(np.float32)


class Measured(NamedTuple):
    """One round of one loop."""

    rate: float
    """Decisions per second of CPU time."""
    network: float
    """Share of that time spent in the naive network."""


class Loop:
    """Self-play that can be run for a while, again and again."""

    def __init__(self, game: Game, acting: list[Acting], tables: int) -> None:
        self._tables = game.tables(tables, 1, skip_forced=tables > 1)
        players = [
            Player(game.seats[seat], (seat,), game.spaces(seat), acts)
            for seat, acts in enumerate(acting)
        ]
        self._rounds = run_loop(
            self._tables,
            players,
            np.random.default_rng(1),
            exploration=Exploration(0.01),
            block_steps=800,
            author=Author("actor-0", 0, 0),
        )

    def measure(self, seconds: float) -> Measured:
        """Play on for so many seconds of CPU time."""
        decisions, network = self._tables.decisions, Naive.network_seconds
        begun = time.process_time()
        while (spent := time.process_time() - begun) < seconds:
            next(self._rounds)
        return Measured(
            (self._tables.decisions - decisions) / spent,
            (Naive.network_seconds - network) / spent,
        )


def make_acting(game: Game, model: ActionValue, seat: int, precision: torch.dtype) -> Acting:
    acting = create_acting(game.spaces(seat), NETWORK, CPU, precision)
    acting.load({name: value.numpy() for name, value in model.state_dict().items()})
    return acting


def main() -> int:
    report = Report("selfplay", __doc__)
    report.parser.add_argument("--tables", type=int, default=256)
    report.parser.add_argument("--seconds", type=float, default=1.0, help="CPU time a round")
    report.parser.add_argument("--rounds", type=int, default=12)
    options = report.arguments()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    game = games.load("doudizhu", {})
    models = [ActionValue(game.spaces(seat), NETWORK) for seat in range(len(game.seats))]
    precisions = {"fp32": torch.float32}
    if multiplies_bf16(CPU):
        precisions["bf16"] = torch.bfloat16
    loops = {"naive": Loop(game, [Naive(model) for model in models], 1)}
    for name, precision in precisions.items():
        acting = [make_acting(game, model, seat, precision) for seat, model in enumerate(models)]
        loops[name] = Loop(game, acting, options.tables)
    for loop in loops.values():  # compiled code is loaded, shapes are met, games are mixed
        loop.measure(2 * options.seconds)
    rounds = [
        {name: loop.measure(options.seconds) for name, loop in loops.items()}
        for _ in range(options.rounds)
    ]

    report.row("naive loop, one table", median(r["naive"].rate for r in rounds), "decisions/s")
    network = 100 * median(r["naive"].network for r in rounds)
    report.row("of its time in the network", network, "%", at_least=60)
    for name in precisions:
        rate = median(r[name].rate for r in rounds)
        times = median(r[name].rate / r["naive"].rate for r in rounds)
        report.row(f"{options.tables} tables, {name}", rate, "decisions/s")
        report.row(f"{name} against naive", times, "times", at_least=LINES[name])
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
