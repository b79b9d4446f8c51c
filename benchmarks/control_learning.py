"""Control: how well every algorithm learns, by greedy episodes after training, over several seeds.

Each case is a job in `examples/` or `benchmarks/jobs/`, trained as a person trains it (`troupe
train`), then judged by 100 episodes without exploration. HalfCheetah is trained beside
Stable-Baselines3 with the same settings. The curves of all runs are kept with `--save`, in
`results/`.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import rivals
import torch
from report import RESULTS, Report
from running import EXAMPLES, train

from troupe_actors import trials

JOBS = Path(__file__).with_name("jobs")
SEEDS = (1, 2, 3)
RETURN = "actor/return/agent"
"""In a journal: the mean return of the newest episodes."""


@dataclass(frozen=True)
class Case:
    """One algorithm on one environment, and the line it has to hold."""

    name: str
    job: Path
    line: float
    """The least mean return."""
    worst: bool = False
    """Whether every seed has to hold the line, rather than their mean."""
    rival: tuple[str, ...] = ()
    """What SB3's script is told, before the seed; then the line is a share of its mean return."""

    @property
    def label(self) -> str:
        """A name for files."""
        return self.name.lower().replace(" ", "_")


CASES = (
    Case("PPO CartPole-v1", EXAMPLES / "cartpole.yaml", 490, worst=True),
    Case("DDPG Pendulum-v1", EXAMPLES / "pendulum.yaml", -170),
    Case("DQN CartPole-v1", EXAMPLES / "cartpole_dqn.yaml", 475),
    Case("REINFORCE CartPole-v1", JOBS / "reinforce_cartpole.yaml", 475),
    Case("PPO LunarLander-v3", EXAMPLES / "lunarlander.yaml", 220),
    Case("DDPG HalfCheetah-v5", JOBS / "ddpg_halfcheetah.yaml", 0.8, rival=("cheetah", "50000")),
)


@dataclass(frozen=True)
class Outcome:
    """One run, judged."""

    seed: int
    mean: float
    minutes: float
    curve: list[tuple[float, float]]
    """Steps trained on, and the mean return of the newest episodes that were played."""


def main() -> int:
    """Train, judge and report."""
    report = Report("control_learning", __doc__)
    report.parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    report.parser.add_argument("--episodes", type=int, default=100, help="episodes to judge by")
    report.parser.add_argument("--only", help="cases whose name begins so, such as PPO")
    report.parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the runs here")
    options = report.arguments()
    torch.set_num_threads(1)
    details: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = (options.keep or Path(scratch)).absolute()
        for case in CASES:
            if case.name.startswith(options.only or ""):
                details[case.name] = judge(report, case, base, options)
    if options.only:
        report.name += "_" + options.only.lower().replace(" ", "_")
    return report.finish(details)


def judge(report: Report, case: Case, base: Path, options: argparse.Namespace) -> object:
    """Train and judge every seed of a case, and add its rows; what is kept of it."""
    outcomes, theirs = [], []
    for seed in options.seeds:
        print(f"{case.name}: seed {seed}", file=sys.stderr)
        outcomes.append(learn(case, seed, base, options.episodes))
        print(f"  {outcomes[-1].mean:.1f}, {outcomes[-1].minutes:.1f} minutes", file=sys.stderr)
        if case.rival:
            theirs.append(rivals.run("sb3", [*case.rival, str(seed)]))
    means = [outcome.mean for outcome in outcomes]
    if case.rival:
        rival = statistics.mean(float(held["return"]) for held in theirs)
        report.row(f"{case.name}: mean return", statistics.mean(means), "")
        report.row("  SB3", rival, "")
        report.row("  ours / SB3", statistics.mean(means) / rival, "", at_least=case.line)
    elif case.worst:
        report.row(f"{case.name}: worst seed", min(means), "", at_least=case.line)
    else:
        report.row(f"{case.name}: mean of seeds", statistics.mean(means), "", at_least=case.line)
    for outcome in outcomes:
        report.row(f"  seed {outcome.seed}", outcome.mean, "")
    report.row("  wall clock", statistics.median(o.minutes for o in outcomes), "minutes")
    if options.save:
        draw(case, outcomes, theirs)
    ours = [vars(outcome) for outcome in outcomes]
    return {"job": case.job.read_text(), "seeds": ours, "sb3": theirs}


def learn(case: Case, seed: int, base: Path, episodes: int) -> Outcome:
    """Train a case's job with one seed, and judge what it has learned."""
    folder, seconds = train(case.job, [f"seed={seed}"], base / f"{case.label}-{seed}")
    result = trials.evaluate_run(folder, episodes)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [(line["step"], line[RETURN]) for line in lines if line.get(RETURN) is not None]
    return Outcome(seed, float(result.returns.mean()), seconds / 60, thinned(curve))


def thinned(curve: list[tuple[float, float]], most: int = 200) -> list[tuple[float, float]]:
    """A curve of at most that many points."""
    return curve[:: max(1, len(curve) // most)]


def draw(case: Case, outcomes: list[Outcome], theirs: list[dict[str, float]]) -> None:
    """A picture of the curves, in `results/`."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for outcome in outcomes:
        axes.plot(*zip(*outcome.curve, strict=True), label=f"seed {outcome.seed}")
    for number, held in enumerate(theirs):
        label = "Stable-Baselines3" if number == 0 else None
        axes.plot(held["steps"], held["returns"], "--", color="grey", label=label)
    axes.set(xlabel="environment steps", ylabel="return while training", title=case.name)
    axes.legend()
    figure.savefig(RESULTS / f"{case.label}.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
