"""How near regularised self-play comes to an equilibrium: NashConv while a job is trained.

Each case is trained as a person trains it (`troupe train`), with a checkpoint every few seconds.
Every checkpoint is then judged as `troupe eval` judges the newest: the policy that was trained,
with the probabilities that it acts by, against the best answers that OpenSpiel finds. The curves of
all cases are kept with `--save`, in `results/`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from report import RESULTS, Report
from running import EXAMPLES, train

from troupe import checkpoint as checkpoints
from troupe.runs import RunFolder
from troupe_actors import arena
from troupe_actors.agents import policy
from troupe_actors.equilibrium import Yardstick

NEAR = 0.3


@dataclass(frozen=True)
class Case:
    """One game, and the line that its newest policy has to hold."""

    name: str
    uniform: float
    """NashConv where all actions are equally likely."""
    overrides: tuple[str, ...] = ()
    """Of `examples/leduc.yaml`."""
    line: float | None = None
    """The greatest NashConv of the newest policy."""


CASES = (
    Case("Leduc", 4.747222, line=1.0),
    Case("Liar's dice", 1.561489, overrides=("game.rules={game: liars_dice}",)),
)


class Point(NamedTuple):
    """A checkpoint, judged."""

    minutes: float
    """Of training."""
    steps: int
    """Trained on."""
    nash_conv: float


def main() -> int:
    """Train, judge and report."""
    report = Report("equilibrium", __doc__)
    report.parser.add_argument("--minutes", type=float, default=10.0, help="of training, each case")
    report.parser.add_argument("--points", type=int, default=40, help="checkpoints of a curve")
    report.parser.add_argument("--seed", type=int, default=1)
    report.parser.add_argument("--only", help="cases whose name begins so, such as Leduc")
    report.parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the runs here")
    options = report.arguments()
    torch.set_num_threads(1)
    curves: dict[str, list[Point]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = (options.keep or Path(scratch)).absolute()
        for case in CASES:
            if case.name.startswith(options.only or ""):
                print(f"{case.name}: training ...", file=sys.stderr)
                curves[case.name] = judge(report, case, base, options)
    if options.save:
        draw(curves)
    kept = {name: [point._asdict() for point in curve] for name, curve in curves.items()}
    return report.finish({"job": (EXAMPLES / "leduc.yaml").read_text(), "curves": kept})


def judge(report: Report, case: Case, base: Path, options: argparse.Namespace) -> list[Point]:
    """Train a case, judge its checkpoints and add its rows; the curve."""
    every = 60 * options.minutes / options.points
    overrides = [
        *case.overrides,
        f"seed={options.seed}",
        f"stop.minutes={options.minutes}",
        f"checkpoint={json.dumps({'every': every, 'keep': 10 * options.points})}",
    ]
    folder, seconds = train(EXAMPLES / "leduc.yaml", overrides, base / case.name[:5].lower())
    curve = []
    for point in judged(folder):
        print("  {:5.2f} minutes, {:,} steps: {:.3f}".format(*point), file=sys.stderr)
        curve.append(point)
    newest = curve[-1]
    report.row(f"{case.name}: NashConv", newest.nash_conv, "", at_most=case.line)
    report.row("  of a uniform policy", case.uniform, "")
    near = next((point for point in curve if point.nash_conv < NEAR), None)
    if near is not None:
        report.row(f"  below {NEAR} after", near.minutes, "minutes")
    report.row("  steps trained on", newest.steps, "")
    report.row("  training", newest.minutes, "minutes")
    report.row("  wall clock", seconds / 60, "minutes")
    return curve


def judged(folder: Path) -> Iterator[Point]:
    """Every checkpoint of a run, oldest first."""
    job = RunFolder(folder).job()
    game = arena.game_of(job)
    yardstick = Yardstick(job, game)
    for path in checkpoints.available(folder):
        agent = policy.load(folder, game, checkpoint=path.name)
        measured = yardstick.measure(agent.name, agent.acting)
        saved = checkpoints.load(path)
        yield Point(saved.counters["training_seconds"] / 60, saved.step, measured.nash_conv)


def draw(curves: dict[str, list[Point]]) -> None:
    """A picture of the curves, in `results/`."""
    figure, panels = plt.subplots(1, len(curves), figsize=(5 * len(curves), 4), squeeze=False)
    for axes, (name, curve) in zip(panels[0], curves.items(), strict=True):
        minutes, _, nash_conv = zip(*curve, strict=True)
        axes.plot(minutes, nash_conv)
        axes.set(xlabel="minutes of training", ylabel="NashConv", title=name, yscale="log")
        axes.grid(which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(RESULTS / "equilibrium.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
