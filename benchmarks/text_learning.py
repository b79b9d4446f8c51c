"""Text: how well GRPO and PPO teach a small model to sort four digits, on prompts not trained on.

Each run is an example as a person trains it (`troupe train`): it makes its start model, which is
right at most once in fifty, and generates 25,600 completions in all. Every seed has a start model
and prompts of its own. Judged is the exact match of greedy completions to 5,000 held-out prompts.
"""

import json
import statistics
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from report import Report
from running import EXAMPLES, train

from troupe.jobs.prepare import prepared_paths
from troupe.runs import RunFolder
from troupe_actors import text_trials

SEEDS = (11, 12, 13)
"""Others than those that the examples' options were chosen with."""
COMPLETIONS = 25_600
START = 0.02
CASES = {"GRPO": (EXAMPLES / "sort_grpo.yaml", 0.92), "PPO": (EXAMPLES / "sort_ppo.yaml", 0.93)}


def main() -> int:
    """Train, judge and report."""
    report = Report("text_learning", __doc__)
    report.parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    report.parser.add_argument("--only", choices=[*CASES], help="one of the algorithms")
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
    return report.finish(details)


def learn(job: Path, seed: int, base: Path) -> dict[str, object]:
    """Train with one seed, and judge the model before and after."""
    print(f"{job.stem}: seed {seed}", file=sys.stderr)
    folder, seconds = train(job, [f"seed={seed}", "evaluation.every=0"], base)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [
        (line["step"], line["learner/reward/exact/agent"])
        for line in lines
        if "learner/reward/exact/agent" in line
    ]
    updates = lines[-1]["updates"]
    resolved = prepared_paths(RunFolder(folder).job(), folder)
    assert resolved.text is not None
    # Actors are `lag` turns ahead, and begin one more with the last weights: those count too.
    turns = updates + resolved.lag + 1
    completions = turns * resolved.text.groups * resolved.text.completions
    start, exact = _exact(folder)
    print(f"  {exact:.3f}, {completions:,.0f} completions, {seconds:.0f} s", file=sys.stderr)
    return {
        "seed": seed,
        "start": start,
        "exact": exact,
        "completions": completions,
        "minutes": seconds / 60,
        "curve": curve,
    }


def _exact(folder: Path) -> tuple[float, float]:
    """The share of held-out prompts that are answered exactly: by the start model, sampled as in
    training, and by the newest checkpoint."""
    job = prepared_paths(RunFolder(folder).job(), folder)
    trial = text_trials.settings_of(job)
    trial = replace(trial, prompts=replace(trial.prompts, limit=None))
    assert job.text is not None
    with closing(
        text_trials.Exam("start", replace(trial, temperature=job.text.temperature))
    ) as exam:
        begun = exam.judge()
    assert begun is not None
    ended = text_trials.evaluate_run(folder, trial)
    return begun.gauges()["reward/exact"], ended.gauges()["reward/exact"]


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
