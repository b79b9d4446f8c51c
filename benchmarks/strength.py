"""How strong the agents of `examples/doudizhu.yaml` are, and how long they take to become so.

Each seed is one `troupe train` as a person starts it, start-up and its own evaluations included,
then judged over 1,000 deals, each played in both seats. Medians over the seeds.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from report import Report

from troupe_actors import arena
from troupe_actors.arena import Result

ROOT = Path(__file__).resolve().parents[1]
JOB = ROOT / "examples" / "doudizhu.yaml"
LINES = {"random": 0.93, "rlcard-rule": 0.55}
"""The least share of games won, by opponent."""
MOST_MINUTES = 8.0


@dataclass(frozen=True)
class Outcome:
    """One training run, judged."""

    seed: int
    minutes: float
    """Wall clock of the whole command."""
    results: dict[str, Result]
    """By opponent."""


def main() -> int:
    """Train, judge and report."""
    report = Report("strength", __doc__)
    report.parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    report.parser.add_argument("--steps", type=int, default=1_900_000, help="trained steps")
    report.parser.add_argument("--deals", type=int, default=1000, help="deals to judge by")
    report.parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the runs here")
    options = report.arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        base = options.keep or Path(scratch)
        outcomes = [
            train_and_judge(base.absolute(), seed, options.steps, options.deals)
            for seed in options.seeds
        ]
    for opponent, line in LINES.items():
        shares = [outcome.results[opponent].overall.wp.mean for outcome in outcomes]
        report.row(f"WP against {opponent}", statistics.median(shares), "", at_least=line)
        for outcome, share in zip(outcomes, shares, strict=True):
            report.row(f"  seed {outcome.seed}", share, "")
    minutes = [outcome.minutes for outcome in outcomes]
    report.row("wall clock", statistics.median(minutes), "minutes", at_most=MOST_MINUTES)
    report.row("  slowest", max(minutes), "minutes")
    return report.finish({"seeds": [details(outcome) for outcome in outcomes]})


def train_and_judge(base: Path, seed: int, steps: int, deals: int) -> Outcome:
    """Train the example with this seed below `base`, then play its agents against all opponents."""
    print(f"seed {seed}: training ...", file=sys.stderr)
    runs = base / f"seed-{seed}"
    runs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "troupe.cli", "train", str(JOB), f"seed={seed}"]
    command.append(f"stop.steps={steps}")
    start = time.monotonic()
    with open(runs / "output.txt", "wb") as output:
        command += ["--runs", str(runs)]
        status = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
    minutes = (time.monotonic() - start) / 60
    if status:
        tail = "\n".join((runs / "output.txt").read_text().splitlines()[-10:])
        sys.exit(f"seed {seed}: the run failed with exit code {status}\n{tail}")
    run = max(runs.glob("*/job.yaml"), key=lambda job: job.stat().st_mtime).parent
    results = {opponent: arena.evaluate_run(run, opponent, deals) for opponent in LINES}
    shares = ", ".join(f"{r.overall.wp:.3f} against {name}" for name, r in results.items())
    print(f"seed {seed}: {minutes:.1f} minutes, WP {shares}", file=sys.stderr)
    return Outcome(seed, minutes, results)


def details(outcome: Outcome) -> dict[str, object]:
    """One seed's figures, for the documentation to quote."""
    return {
        "seed": outcome.seed,
        "minutes": round(outcome.minutes, 2),
        "results": [result.data() for result in outcome.results.values()],
    }


if __name__ == "__main__":
    sys.exit(main())
