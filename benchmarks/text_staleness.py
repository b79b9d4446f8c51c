"""Text whose every token is four versions old: what corrections are worth beside learning on-policy.

Sorting by GRPO in lockstep, where a lag of 4 is exact: turn t is sampled by version t - 4. With one
update a batch the default is a clip on pi/mu; with four minibatches it is the decoupled one. Naive is
a learner that takes what it gets for its own: it clips on pi/pi_old and weighs all tokens alike.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from report import RESULTS, Report
from running import EXAMPLES, train
from text_runs import curve, exact

from troupe_learners.tasks import sorting

LAG = 4
UPDATES = 600
"""So many that learning on-policy comes to rest, also with one optimizer step in each."""
WORSE = 0.03
JOB = EXAMPLES / "sort_grpo.yaml"
CORRECTIONS: Mapping[str, Sequence[str]] = {
    "on-policy": ("lag=0",),
    "default": (f"lag={LAG}",),
    "naive": (f"lag={LAG}", "algorithm.old_log_prob=learner", "algorithm.correction=none"),
}
PARTS = {"one update a batch": 1, "four minibatches": 4}


@dataclass(frozen=True)
class Outcome:
    """One run, judged."""

    parts: str
    correction: str
    seed: int
    exact: float
    curve: list[tuple[float, float]]
    """Updates, and exact match of the completions that were trained on."""


def study(report: Report, seeds: Sequence[int], base: Path) -> list[dict[str, object]]:
    """Train and judge all of it, and add its rows; what is kept of it."""
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    for seed in seeds:
        start = base / f"start-{seed}"
        if not start.exists():
            start.mkdir(parents=True)
            sorting.prepare(start, sorting.Options(), seed)
        outcomes += [
            learn(parts, correction, seed, start, base)
            for parts in PARTS
            for correction in CORRECTIONS
        ]
    for parts in PARTS:
        rows(report, parts, [outcome for outcome in outcomes if outcome.parts == parts])
    if report.options.save:
        draw(outcomes)
    return [vars(outcome) for outcome in outcomes]


def learn(parts: str, correction: str, seed: int, start: Path, base: Path) -> Outcome:
    """Train with one seed, and judge."""
    print(f"{parts}, {correction}: seed {seed}", file=sys.stderr)
    overrides = [
        f"seed={seed}",
        "prepare=null",
        f"text.prompts.path={start / sorting.PROMPTS}",
        f"network.language.model={start / sorting.MODEL}",
        f"evaluation.prompts.path={start / sorting.HELD_OUT}",
        "evaluation.every=0",
        "algorithm.epochs=1",
        f"algorithm.minibatches={PARTS[parts]}",
        f"stop.updates={UPDATES}",
        *CORRECTIONS[correction],
    ]
    folder, seconds = train(JOB, overrides, base / f"{PARTS[parts]}-{correction}-{seed}")
    value = exact(folder)
    print(f"  {value:.3f}, {seconds:.0f} s", file=sys.stderr)
    return Outcome(parts, correction, seed, value, curve(folder))


def rows(report: Report, parts: str, outcomes: Sequence[Outcome]) -> None:
    """A median for each correction; the default's has a line."""
    medians = {
        correction: statistics.median(o.exact for o in outcomes if o.correction == correction)
        for correction in CORRECTIONS
    }
    report.row(f"staleness {LAG}, {parts}: default", medians["default"], "",
               at_least=medians["on-policy"] - WORSE)  # fmt: skip
    report.row("  on-policy", medians["on-policy"], "")
    report.row("  naive", medians["naive"], "")


def draw(outcomes: Sequence[Outcome]) -> None:
    """A picture of the curves, in `results/`."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    colours = dict(zip(CORRECTIONS, ("grey", "C0", "C3"), strict=True))
    for axes, parts in zip(panels, PARTS, strict=True):
        labels = dict(zip(CORRECTIONS, CORRECTIONS, strict=True))
        for one in outcomes:
            if one.parts == parts:
                axes.plot(
                    *zip(*one.curve, strict=True),
                    color=colours[one.correction],
                    label=labels.pop(one.correction, None),
                    linewidth=1,
                )
        axes.set(xlabel="updates", title=f"staleness {LAG}, {parts}")
        axes.legend()
    panels[0].set(ylabel="exact match while training")
    figure.savefig(RESULTS / "text_staleness.png", dpi=110)
    plt.close(figure)
