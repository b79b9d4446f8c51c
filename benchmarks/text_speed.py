"""Text: how fast GRPO trains and its parts are, beside TRL, transformers and whole logits.

A step is 128 completions generated, scored and trained on: `jobs/grpo_sorting.yaml` through the
whole runtime (`troupe train`), and TRL's GRPOTrainer with two torch threads, from the same start
weights and prompts. TRL is installed from PyPI into an environment of its own and run in turn with
ours; start-up and warm-up are left out on both sides, ratios are of medians. How the other figures come
about is said in the files of `text/`.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import rivals
from report import Report
from running import rate
from text import apart, generation, updating, vocabulary

JOB = Path(__file__).with_name("jobs") / "grpo_sorting.yaml"
WARM_UP = 5.0
WAYS = {
    "lockstep": ("lag=0", "actors.count=2"),
    "lag 1": ("lag=1",),
}
"""What the job is run with, as it is fastest here: in lockstep two actors have both cores while they
play, with lag 1 the learner has one of them."""
AT_LEAST = {"lockstep": 1.5, "lag 1": 2.0}


def main() -> int:
    """Measure and report."""
    report = Report("text_speed", __doc__)
    report.parser.add_argument("--seconds", type=float, default=20.0, help="per measured run")
    report.parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    report.parser.add_argument("--only", choices=[*PARTS], help="one part of it")
    options = report.arguments()
    for name, part in PARTS.items():
        if options.only in (None, name):
            part(report)
    return report.finish()


def prepared(folder: Path) -> list[str]:
    """Make the start model and its prompts there, and what a job is told of them."""
    apart(_prepare, folder)
    return [f"text.prompts.path={folder}/prompts.jsonl", f"network.language.model={folder}/model"]


def _prepare(folder: Path) -> None:
    import torch

    from troupe_learners.tasks import sorting

    torch.set_num_threads(1)
    sorting.prepare(folder, sorting.Options(), seed=1)


def training(report: Report) -> None:
    """Steps per second of all sides, in turn."""
    speeds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        told = prepared(Path(scratch))
        rival = [f"{scratch}/model", f"{scratch}/prompts.jsonl", str(report.options.seconds)]
        for number in range(report.options.runs):
            print(f"run {number + 1} of {report.options.runs}", file=sys.stderr)
            theirs = rivals.run("trl", rival)
            speeds.setdefault("TRL", []).append(theirs["steps"])
            cpu.setdefault("TRL", []).append(theirs["cpu"])
            for name, way in WAYS.items():
                seconds = report.options.seconds
                ours = rate(JOB, [*told, *way], warm_up=WARM_UP, seconds=seconds)
                speeds.setdefault(name, []).append(ours.updates)
                cpu.setdefault(name, []).append(ours.cpu)
    for side, values in speeds.items():
        report.row(side, statistics.median(values), "steps/s")
        report.row("  CPU", statistics.median(cpu[side]), "CPU-s/s")
    for name, line in AT_LEAST.items():
        ratio = statistics.median(speeds[name]) / statistics.median(speeds["TRL"])
        report.row(f"{name} / TRL", ratio, "", at_least=line)


def generating(report: Report) -> None:
    """Tokens per second of the engine beside transformers."""
    for shape, line in generation.AT_LEAST.items():
        ours, theirs = apart(generation.measure, shape)
        report.row(f"{shape}: tiny", ours, "tokens/s")
        report.row(f"{shape}: transformers", theirs, "tokens/s")
        report.row(f"{shape}: tiny / transformers", ours / theirs, "", at_least=line)


def following(report: Report) -> None:
    """Seconds until an engine samples with weights that were published."""
    seconds, megabytes = apart(updating.measure)
    what = f"{megabytes:.0f} MB, published to first token"
    report.row(what, seconds, "s", at_most=0.25)


def taking_logs(report: Report) -> None:
    """Memory and time of log-softmax and its gradients."""
    whole, chunked = (apart(vocabulary.measure, kind) for kind in ("whole", "chunked"))
    report.row("whole logits", whole.bytes / 2**20, "MiB")
    report.row("in chunks", chunked.bytes / 2**20, "MiB")
    report.row("memory, in chunks / whole", chunked.bytes / whole.bytes, "", at_most=0.2)
    report.row("time, in chunks / whole", chunked.seconds / whole.seconds, "", at_most=1.3)


PARTS: dict[str, Callable[[Report], None]] = {
    "training": training,
    "generation": generating,
    "update": following,
    "log-softmax": taking_logs,
}


if __name__ == "__main__":
    sys.exit(main())
