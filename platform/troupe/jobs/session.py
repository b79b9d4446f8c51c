"""What a person asks for at the terminal: train, resume, judge, play."""

import argparse
import importlib
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import NamedTuple

from troupe import checkpoint as checkpoints
from troupe import curves, policies
from troupe.checkpoint import Checkpoint, CheckpointError
from troupe.config import dump
from troupe.errors import UserError
from troupe.jobs import launch, load, soundness, stores
from troupe.jobs.aside import aside
from troupe.jobs.crew import RunError
from troupe.jobs.prepare import prepare, prepared_paths
from troupe.jobs.resolve import merged, resolve
from troupe.jobs.roles import policies_of, title
from troupe.jobs.spec import Job
from troupe.live import OpenView, SilentView, View, Views, open_view
from troupe.runs import RUNS, RunFolder

ONE_WISH_SECONDS = 1.0
"""`timeout` and `make` pass on a signal that the whole process group has had already."""
SETTLED = ("game", "environment", "text.prompts", "prepare", "policies", "network", "schedule", "algorithm.name",
           "algorithm.optimizer.name")  # fmt: skip
"""Keys that a checkpoint depends on, with all below them."""
SETTLED_IN_LOCKSTEP = ("seed", "lag", "actors.count", "actors.tables", "actors.environments",
                       "actors.rollout", "actors.games")  # fmt: skip
"""Keys that what the actors left behind depends on."""


class Scrapes(NamedTuple):
    """Where Prometheus may read a run."""

    host: str
    port: int
    """0 takes a free one."""


def train(
    job_file: Path,
    overrides: list[str],
    base: Path,
    *,
    name: str | None = None,
    address: str | None = None,
    scrapes: Scrapes | None = None,
) -> int:
    """Start a new run of a job below `base`; the exit code.

    Args:
        job_file: the job, over which `overrides` are put.
        name: of the run. If there is one of that name, and of the very same job, it goes on: so
            whoever starts a job again, as Kubernetes does, has it resumed.
        address: of the Ray cluster to run on.
        scrapes: where Prometheus may read it.

    Raises:
        UserError: the job would not run, or the name is another job's.
    """
    exporter = _exporter(scrapes)
    here = address is None
    return _go(aside(begin, job_file, overrides, base, name, here=here), exporter, address)


def begin(
    job_file: Path, overrides: list[str], base: Path, name: str | None = None, *, here: bool = True
) -> RunFolder:
    """Make the folder of a new run, with what its job prepares; nothing is left of one that cannot run.

    Raises:
        UserError: the job cannot be run.
    """
    job = load.read(job_file, overrides, here=here)
    if name is not None and (base / name / "job.yaml").is_file():
        return _begun_before(job, RunFolder(base / name))
    load.check_disk(base)
    stores.check(job)
    if job.prepare is None:
        print(soundness.look(job))
    folder = RunFolder.create(base, job, name)
    try:
        if job.prepare is not None:
            prepare(job, folder)
            print(soundness.look(prepared_paths(job, folder.path)))
    except BaseException:
        folder.remove()  # nothing in it is worth going on with
        raise
    return folder


def _begun_before(job: Job, folder: RunFolder) -> RunFolder:
    if folder.job() != job:
        raise UserError(
            f"--name: {folder.path} is a run of another job; choose another name, or go on with that "
            f"one: troupe resume {folder.name} key=value ..."
        )
    stores.check(job, folder.identity)
    prepare(job, folder)
    return folder


def resume(
    text: str,
    base: Path,
    overrides: list[str],
    checkpoint: str | None,
    *,
    address: str | None = None,
    scrapes: Scrapes | None = None,
) -> int:
    """Go on with a run from its newest checkpoint, or from the one named; the exit code."""
    exporter = _exporter(scrapes)
    here = address is None
    folder = aside(begin_again, text, base, overrides, checkpoint, here=here)
    return _go(folder, exporter, address)


def begin_again(
    text: str, base: Path, overrides: list[str], checkpoint: str | None, *, here: bool = True
) -> RunFolder:
    """Find a run and see that it can go on, with overrides put over its job.

    Raises:
        UserError: it cannot; the run is as it was.
        CheckpointError: what was saved is not sound, or another job's.
    """
    folder = RunFolder.find(text, base)
    before = folder.job()
    data = _open_data(before)
    for override in overrides:
        load.put(data, override)
    job = resolve(data, here=here)
    _check_saved(folder, before, job, checkpoint)
    load.check_disk(folder.path)
    stores.check(job, folder.identity)
    folder.choose_checkpoint(checkpoint)
    folder.write_job(job)
    prepare(job, folder)
    return folder


def _open_data(job: Job) -> dict[str, object]:
    """A resolved job as data, without a store's capacity that only followed from the rest."""
    data = dump(job)
    left_open = merged(data, {"store": {"capacity": 0}})
    return left_open if resolve(left_open) == job else data


def _check_saved(folder: RunFolder, before: Job, job: Job, name: str | None) -> None:
    """See that a changed job can go on from what was saved, before anything is touched.

    Raises:
        UserError: a key was changed on which checkpoints depend.
        CheckpointError: the checkpoint to go on from is not sound.
    """
    saved = checkpoints.available(folder.path)
    if not saved:
        return
    old, new = _flat(dump(before)), _flat(dump(job))
    settled = SETTLED + (SETTLED_IN_LOCKSTEP if job.schedule == "lockstep" else ())
    beginnings = tuple(f"{key}." for key in settled)
    for key in sorted(old.keys() | new.keys()):
        if f"{key}.".startswith(beginnings) and old.get(key) != new.get(key):
            raise UserError(
                f"{key}: {new.get(key)!r} does not fit the run's checkpoints, made with "
                f"{old.get(key)!r}; leave it, or start a new run with `troupe train`"
            )
    for path in [path for path in saved if path.name == name] if name else saved[-1:]:
        _check_fits(path, checkpoints.load(path), job)


def _check_fits(path: Path, state: Checkpoint, job: Job) -> None:
    """See that the job's networks can take what was read from `path`.

    Raises:
        CheckpointError: it is another job's.
    """
    spaces = policies_of(job)
    checkpoints.check_fits(path, state, title(job), str(job.algorithm["name"]), spaces)
    if job.text is not None:
        return  # its learner says so: a model is too large to be made for a look
    for policy, seen in spaces.items():
        own = policies.create(seen, job.network).state_dict()
        given = {name: array.shape for name, array in state.weights[policy].items()}
        if given != {name: tuple(tensor.shape) for name, tensor in own.items()}:
            raise CheckpointError(
                f"{path}: {policy}: of another network than this job's; move it away"
            )


def _flat(data: Mapping[str, object], at: str = "") -> dict[str, object]:
    """Values by dotted key."""
    flat: dict[str, object] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{at}{key}.") if isinstance(value, Mapping) else {at + key: value}
    return flat


def evaluate(options: argparse.Namespace) -> int:
    """Play a run's agents against others and print the table; the exit code."""
    return int(_commands().eval_command(
        run=RunFolder.find(options.run, options.runs).path,
        against=options.against,
        deals=options.deals,
        deal_file=options.deal_file,
        episodes=options.episodes,
        prompts=options.prompts,
        limit=options.limit,
        temperature=options.temperature,
        checkpoint=options.checkpoint,
        seed=options.seed,
        as_json=options.json,
    ))  # fmt: skip


def play(options: argparse.Namespace) -> int:
    """Seat a person at a table with a run's agents; the exit code."""
    return int(_commands().play_command(
        run=RunFolder.find(options.run, options.runs).path,
        seat=options.seat,
        seed=options.seed,
        checkpoint=options.checkpoint,
    ))  # fmt: skip


def chat(options: argparse.Namespace) -> int:
    """Let a person talk to a run's language model; the exit code."""
    return int(_commands().chat_command(
        run=RunFolder.find(options.run, options.runs).path,
        checkpoint=options.checkpoint,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        plain=options.plain,
    ))  # fmt: skip


def check_env(name: str, options: list[str]) -> int:
    """Say in one line how an environment or a game looks; the exit code.

    Raises:
        UserError: one line that says what is wrong with it.
    """
    given: dict[str, object] = {}
    for option in options:
        load.put(given, option)
    print(soundness.report(name, given))
    return 0


def _exporter(scrapes: Scrapes | None) -> OpenView:
    if scrapes is None:
        return SilentView()
    from troupe.exporter import TOKEN, Exporter  # what it needs is an extra

    exporter = Exporter(scrapes.host, scrapes.port, os.environ.get(TOKEN, ""))
    print(f"Metrics: {exporter.url}", flush=True)
    return exporter


def _go(folder: RunFolder, exporter: OpenView, address: str | None) -> int:
    job, stop = folder.job(), threading.Event()
    with exporter, _signals(stop):
        complete = _run(job, folder, exporter, stop, address)
    picture = curves.draw(folder.path)
    name = _spelt(folder)
    if not complete:
        saved = checkpoints.available(folder.path)
        how = f"Stopped, saved as {saved[-1].name}" if saved else "Stopped before training began"
        print(f"{how}. Go on with: troupe resume {name}")
        return 0
    if address is not None:  # whoever reads this is elsewhere
        print(f"Done. Curves: {picture}")
        return 0
    if job.text is not None:
        print(f"Done.\nCurves:  {picture}\nSamples: troupe samples {name}")
        print(f"Go on:   troupe resume {name} stop.steps=...")
        return 0
    print(f"Done. {_judging(job)} ...")
    _commands().eval_command(run=folder.path)
    print(f"Curves:  {picture}")
    if job.game is not None and _commands().playable(job.game.name):
        print(f"Play:    troupe play {name}")
    print(f"Judge:   troupe eval {name} {'--seed 1' if job.game is None else '--deals 5000'}")
    print(f"Go on:   troupe resume {name} stop.steps=...")
    return 0


def _run(
    job: Job, folder: RunFolder, exporter: View, stop: threading.Event, address: str | None
) -> bool:
    """Run it; on a cluster again from its newest checkpoint where it failed, as often as it may."""
    left = 0 if address is None else job.cluster.retries
    while True:
        try:
            with open_view(job, folder) as view:
                prepared = prepared_paths(job, folder.path)
                return launch.run(prepared, folder, Views(view, exporter), stop, address)
        except RunError as error:
            if not left or stop.is_set():
                go_on = f"troupe resume {_spelt(folder)}"
                raise RunError(f"{error}; go on with: {go_on}") from None
            left -= 1
            print(f"troupe: {error}; going on from the newest checkpoint", flush=True)


def _judging(job: Job) -> str:
    commands = _commands()
    if job.environment is not None:
        return f"Judging the policy over {commands.EPISODES:,} episodes"
    if job.text is not None:
        return "Judging the model by its answers"
    return f"Judging the agents over {commands.DEALS:,} deals, each played in both seats"


def _spelt(folder: RunFolder) -> str:
    """How a person types the run in a command."""
    return folder.name if folder.path.parent == RUNS else shlex.quote(str(folder.path))


def _commands() -> ModuleType:
    """The actors' side is looked up by name: the platform imports neither side."""
    return importlib.import_module("troupe_actors.commands")


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for an orderly end; a second one ends at once."""
    asked = 0.0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not stop.is_set():
            asked = time.monotonic()
            stop.set()
        elif time.monotonic() - asked > ONE_WISH_SECONDS:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
