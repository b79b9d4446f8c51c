"""Control: how fast PPO, A2C and DDPG train, beside Stable-Baselines3 and RLlib on the same cores.

Counted are environment steps that were trained on (DDPG makes one update a step), start-up
and warm-up left out on all sides. Environments are made by `gymnasium.make` one by one. Rivals are
installed from PyPI into an environment of their own and run in turn with ours; each has the count
of torch threads that it is fastest with here. Ratios are of medians.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import rivals
from report import Report
from running import rate

JOBS = Path(__file__).with_name("jobs")
WARM_UP = 5.0
TOGETHER = "actors.colocated=true"
"""The actor is the learner's own: in its process, or with a lag in one beside it."""


@dataclass(frozen=True)
class Ours:
    """One way to run a job of ours, and how many times faster it must be than each rival."""

    label: str
    overrides: tuple[str, ...]
    at_least: dict[str, float]
    """By rival."""


@dataclass(frozen=True)
class Case:
    """One algorithm on one environment."""

    name: str
    job: Path
    rivals: dict[str, tuple[str, ...]]
    """By name: what its script is told, before the seconds."""
    ours: tuple[Ours, ...]
    unit: str = "steps/s"
    fastest: dict[str, float] = field(default_factory=dict)
    """By rival: how many times faster our fastest way must be."""


CASES = (
    Case(
        "PPO CartPole-v1",
        JOBS / "ppo_cartpole.yaml",
        {"sb3": ("ppo",), "rllib": ()},
        (
            Ours("lockstep", ("lag=0", TOGETHER), {"sb3": 2.0}),
            Ours("lockstep, actor apart", ("lag=0",), {}),
            Ours("lag 1, actor apart", ("lag=1",), {}),
            Ours("async", ("schedule=async",), {}),
        ),
        fastest={"sb3": 3.0, "rllib": 6.0},
    ),
    Case(
        "A2C CartPole-v1",
        JOBS / "a2c_cartpole.yaml",
        {"sb3": ("a2c",)},
        (
            Ours("lockstep", ("lag=0", TOGETHER), {"sb3": 1.4}),
            Ours("lag 1", ("lag=1", TOGETHER), {"sb3": 2.5}),
            Ours("lag 1, actor apart", ("lag=1",), {}),
        ),
    ),
    Case(
        "DDPG Pendulum-v1",
        JOBS / "ddpg_pendulum.yaml",
        {"sb3": ("ddpg",)},
        (Ours("one update a step", (), {"sb3": 1.2}),),
        unit="updates/s",
    ),
)


def main() -> int:
    """Measure and report."""
    report = Report("control_speed", __doc__)
    report.parser.add_argument("--seconds", type=float, default=20.0, help="per measured run")
    report.parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    report.parser.add_argument("--only", help="a case whose name begins so, such as PPO")
    options = report.arguments()
    for case in CASES:
        if case.name.startswith(options.only or ""):
            measure(report, case, options.seconds, options.runs)
    return report.finish()


def measure(report: Report, case: Case, seconds: float, runs: int) -> None:
    """Run all sides of a case in turn, and add its rows."""
    speeds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for number in range(runs):
        print(f"{case.name}: run {number + 1} of {runs}", file=sys.stderr)
        for rival, told in case.rivals.items():
            theirs = rivals.run(rival, [*told, str(seconds)])
            speeds.setdefault(rival, []).append(theirs["steps"])
            cpu.setdefault(rival, []).append(theirs["cpu"])
        for ours in case.ours:
            own = rate(case.job, ours.overrides, warm_up=WARM_UP, seconds=seconds)
            speeds.setdefault(ours.label, []).append(own.steps)
            cpu.setdefault(ours.label, []).append(own.cpu)
    for side, values in speeds.items():
        report.row(f"{case.name}: {side}", median(values), case.unit)
        report.row("  CPU", median(cpu[side]), "CPU-s/s")
    for ours in case.ours:
        for rival in case.rivals:
            ratio = median(speeds[ours.label]) / median(speeds[rival])
            report.row(f"{case.name}: {ours.label} / {rival}", ratio, "", ours.at_least.get(rival))
    most = max(median(speeds[ours.label]) for ours in case.ours)
    for rival, line in case.fastest.items():
        report.row(f"{case.name}: fastest / {rival}", most / median(speeds[rival]), "", line)


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


if __name__ == "__main__":
    sys.exit(main())
