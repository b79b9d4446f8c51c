"""What a job makes for itself before anything of it starts: `prepared/` in its run's folder.

A job names what is in there by paths that begin with `prepared/`, such as `prepared/model`.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from troupe.config import dump, parse
from troupe.errors import UserError
from troupe.jobs.spec import Job, PrepareSettings
from troupe.plugins import find
from troupe.runs import RunFolder, writing

FOLDER = "prepared"
"""In the run's folder, and how paths to what is in it begin."""

_TASKS = "troupe_learners.tasks"
_PART = f".{FOLDER}"
"""What it is called while it is not complete."""


class Task(Protocol):
    """What a file of `troupe_learners/tasks`, or a module of the user's, offers."""

    Options: type
    """Its settings, a class made with `troupe.config.config`."""

    def prepare(self, folder: Path, options: object, seed: int) -> None:
        """Fill an empty folder; the same options and seed give the same files.

        Raises:
            UserError: something that it needs is not there.
        """
        ...


def resolve(settings: PrepareSettings) -> PrepareSettings:
    """The settings with every default of the task's options filled in.

    Raises:
        UserError: there is no such task, or an option is wrong.
    """
    task = _task(settings)
    options: object = parse(task.Options, settings.options, "prepare.options")
    return replace(settings, options=dump(options))


def prepare(job: Job, folder: RunFolder) -> None:
    """Make what the job asks for, once in the life of a run; says so in a line.

    It is complete or not there at all, whatever happens meanwhile.

    Raises:
        UserError: the task cannot be done, or another process is running the run.
    """
    settings, complete = job.prepare, folder.path / FOLDER
    if settings is None:
        return
    with folder.hold(), writing(complete):
        if complete.is_dir():
            return
        part = folder.path / _PART
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        print(f"Preparing {settings.name} ...", flush=True)
        start = time.monotonic()
        try:
            part.mkdir()
            task = _task(settings)
            task.prepare(part, parse(task.Options, settings.options, "prepare.options"), job.seed)
            part.rename(complete)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        there = ", ".join(sorted(path.name for path in complete.iterdir()))
        print(f"Prepared in {time.monotonic() - start:.0f} s: {there} in {complete}/", flush=True)


def prepared_paths(job: Job, run_folder: Path) -> Job:
    """The job with paths that begin with `prepared/`, wherever it has them, below the run's folder."""
    if job.prepare is None:
        return job
    found = _below(dump(replace(job, prepare=None)), str(run_folder.absolute()))
    return replace(parse(Job, found), prepare=job.prepare)


def _below(value: object, folder: str) -> object:
    match value:
        case str() if value.startswith(f"{FOLDER}/"):
            return f"{folder}/{value}"
        case Mapping():
            return {key: _below(one, folder) for key, one in value.items()}
        case list():
            return [_below(one, folder) for one in value]
    return value


def _task(settings: PrepareSettings) -> Task:
    module = find(_TASKS, settings.name, "prepare.name")
    lacks = [part for part in ("Options", "prepare") if not hasattr(module, part)]
    if lacks:
        raise UserError(f"prepare.name: {settings.name!r} is no task: it has no {lacks[0]}")
    return cast(Task, module)
