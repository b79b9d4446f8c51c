"""Text: how well GRPO and PPO teach a small model to sort four digits, on prompts not trained on.

Each run is an example as a person trains it (`troupe train`): it makes its start model, which is
right at most once in fifty, and generates 25,600 completions in all. Every seed has a start model
and prompts of its own. Judged is the exact match of greedy completions to 5,000 held-out prompts.
`--only staleness` is what corrections of stale data are worth, see `text_staleness.py`.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import text_runs
import text_staleness
from report import Report
from running import EXAMPLES, train

from troupe.runs import RunFolder

SEEDS = (11, 12, 13)
"""Others than those that the examples' options were chosen with."""
STALENESS = "staleness"
COMPLETIONS = 25_600
START = 0.02
CASES = {"GRPO": (EXAMPLES / "sort_grpo.yaml", 0.92), "PPO": (EXAMPLES / "sort_ppo.yaml", 0.93)}


def main() -> int:
    """Train, judge and report."""
    report = Report("text_learning", __doc__)
    report.parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    report.parser.add_argument("--only", choices=[*CASES, STALENESS])
    report.parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the runs here")
    options = report.arguments()
    details: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = (options.keep or Path(scratch)).absolute()
        for name, (job, line) in CASES.items():
            if options.only in (None, name):
                held = [learn(job, seed, base / f"{job.stem}-{seed}") for seed in options.seeds]
                rows(report, name, held, line)
                details[name] = {"job": job.read_text(), "seeds": held}
        if options.only in (None, STALENESS):
            details[STALENESS] = text_staleness.study(report, options.seeds, base)
    if options.only:
        report.name += f"_{options.only.lower()}"
    return report.finish(details)


def learn(job: Path, seed: int, base: Path) -> dict[str, object]:
    """Train with one seed, and judge the model before and after."""
    print(f"{job.stem}: seed {seed}", file=sys.stderr)
    folder, seconds = train(job, [f"seed={seed}", "evaluation.every=0"], base)
    resolved = RunFolder(folder).job()
    assert resolved.text is not None
    updates = text_runs.updates(folder)
    # Actors are `lag` turns ahead, and begin one more with the last weights: those count too.
    turns = updates + resolved.lag + 1
    completions = turns * resolved.text.groups * resolved.text.completions
    exact = text_runs.exact(folder)
    print(f"  {exact:.3f}, {completions:,.0f} completions, {seconds:.0f} s", file=sys.stderr)
    return {
        "seed": seed,
        "start": text_runs.start_exact(folder),
        "exact": exact,
        "completions": completions,
        "minutes": seconds / 60,
        "curve": text_runs.curve(folder),
    }


def rows(report: Report, name: str, held: list[dict[str, object]], line: float) -> None:
    """A case's figures."""
    exact = [float(str(one["exact"])) for one in held]
    report.row(f"{name}: exact match, median", statistics.median(exact), "", at_least=line)
    for one, value in zip(held, exact, strict=True):
        report.row(f"  seed {one['seed']}", value, "")
    report.row("  start, most", max(float(str(one["start"])) for one in held), "", at_most=START)
    most = max(float(str(one["completions"])) for one in held)
    report.row("  completions", most, "", at_most=COMPLETIONS)
    report.row("  wall clock", statistics.median(float(str(o["minutes"])) for o in held), "minutes")


if __name__ == "__main__":
    sys.exit(main())
