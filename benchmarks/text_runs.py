"""Runs of text, looked at when they are over."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from troupe.jobs.prepare import prepared_paths
from troupe.runs import RunFolder
from troupe_actors import text_trials

EXACT = "learner/reward/exact/agent"
"""In a journal: exact match of the completions that were trained on."""


def exact(folder: Path) -> float:
    """The share of all held-out prompts that the newest checkpoint answers exactly, greedily."""
    trial = _trial(folder)
    return text_trials.evaluate_run(folder, trial).gauges()["reward/exact"]


def start_exact(folder: Path) -> float:
    """The same of the start model, sampled as in training."""
    job = RunFolder(folder).job()
    assert job.text is not None
    trial = replace(_trial(folder), temperature=job.text.temperature)
    with closing(text_trials.Exam("start", trial)) as exam:
        judged = exam.judge()
    assert judged is not None
    return judged.gauges()["reward/exact"]


def updates(folder: Path) -> int:
    """How many were made."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return int(json.loads(lines[-1])["updates"])


def curve(folder: Path, width: int = 10, most: int = 200) -> list[tuple[float, float]]:
    """Updates, and exact match while training, a mean over `width` lines of the journal."""
    found = dict[int, float]()
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        told = json.loads(line)
        if EXACT in told:
            found[told["updates"]] = told[EXACT]
    points = [*found.items()]
    windows = [points[max(0, end - width) : end] for end in range(1, len(points) + 1)]
    smooth = [(w[-1][0], sum(value for _, value in w) / len(w)) for w in windows]
    return smooth[:: max(1, len(smooth) // most)]


def _trial(folder: Path) -> text_trials.TrialSettings:
    trial = text_trials.settings_of(prepared_paths(RunFolder(folder).job(), folder))
    return replace(trial, prompts=replace(trial.prompts, limit=None))
