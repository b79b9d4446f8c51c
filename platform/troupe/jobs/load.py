"""From a job file and overrides to a job that is known to be sound."""

import importlib
import shutil
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import yaml

from troupe.config import dump, parse
from troupe.errors import UserError
from troupe.jobs.roles import policies_of
from troupe.jobs.spec import Job
from troupe.plugins import find

MIN_FREE_BYTES = 256 * 1024 * 1024


def read(path: Path, overrides: list[str]) -> Job:
    """Read a job file and put `key=value` overrides over it; the job is checked whole.

    Raises:
        UserError: the file or an override cannot be read, or the job would not run.
    """
    data = read_yaml(path)
    for override in overrides:
        put(data, override)
    return resolve(parse(Job, data))


def read_yaml(path: Path) -> dict[str, object]:
    """A YAML file that holds a mapping.

    Raises:
        UserError: it is not there, not YAML, not a mapping, or names a key twice.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, line {line}: {error.problem or 'not YAML'}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as a date in month 13
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a job is a mapping of keys to values; see examples/")
    return data


def put(data: dict[str, object], override: str) -> None:
    """Put one override such as `actors.count=4` into plain job data.

    Raises:
        UserError: it has no `=`, its value is not YAML, or its path runs through a plain value.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"{override}: an override is key=value, such as actors.count=4")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"{path}: {text!r} is not a YAML value") from None
    *parents, last = path.split(".")
    here = data
    for parent in parents:
        below = here.setdefault(parent, {})
        if not isinstance(below, dict):
            raise UserError(f"{path}: {parent} is {below!r}, which has no keys below it")
        here = below
    here[last] = value


class _Game(Protocol):
    name: str
    seats: tuple[str, ...]
    rules: object


def resolve(job: Job) -> Job:
    """The job with every default of its parts filled in, known to be sound.

    Names must exist and keys must fit each other, which no single key can tell.

    Raises:
        UserError: one line for the first thing that would not run.
    """
    game: _Game = importlib.import_module("troupe_actors.games").load(job.game.name, job.game.rules)
    unknown = [seat for seat in job.policies if seat not in game.seats]
    if unknown:
        raise UserError(
            f"policies.{unknown[0]}: {job.game.name} has no such seat; it has {', '.join(game.seats)}"
        )
    policies = {seat: job.policies.get(seat, seat) for seat in game.seats}
    policies_of(job)
    name, algorithm = _algorithm(job)
    _check_capacity(job, len(set(policies.values())), getattr(algorithm, "batch", 0))
    agents = importlib.import_module("troupe_actors.agents")
    for opponent in job.evaluation.against:
        agents.check(opponent, job.game.name, "evaluation.against")
    _check_devices(job)
    return replace(
        job,
        game=replace(job.game, rules=dump(game.rules)),
        algorithm={"name": name, **dump(algorithm)},
        policies=policies,
    )


def _algorithm(job: Job) -> tuple[str, object]:
    """The algorithm's name and its own settings."""
    options = dict(job.algorithm)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError("algorithm.name: missing; an algorithm such as deep_monte_carlo")
    module = find("troupe_learners", name, "algorithm.name")
    if not hasattr(module, "Config"):
        raise UserError(f"algorithm.name: {name!r} is no algorithm: it has no Config")
    return name, parse(module.Config, options, "algorithm")


def _check_capacity(job: Job, policies: int, batch: int) -> None:
    """Every policy must be able to collect a batch while every actor brings a block."""
    actors = job.actors
    needed = policies * batch + actors.count * actors.block_steps
    if job.store.capacity < needed:
        raise UserError(
            f"store.capacity: {job.store.capacity} is too small: {policies} policies collect {batch} "
            f"steps each while {actors.count} actors bring {actors.block_steps} at a time; make it "
            f"{needed} or more"
        )


def _check_devices(job: Job) -> None:
    devices = importlib.import_module("troupe.policies.devices")  # imports torch: only when asked
    for key, device, precision in (
        ("learner", job.learner.device, job.learner.precision),
        ("actors", job.actors.device, job.actors.precision),
    ):
        devices.check(device, precision, key)


def check_disk(folder: Path) -> None:
    """See that a run can be written at `folder`.

    Raises:
        UserError: the disk is nearly full.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < MIN_FREE_BYTES:
        raise UserError(
            f"{folder}: {free / 2**20:.0f} MiB are free on its disk, a run needs "
            f"{MIN_FREE_BYTES / 2**20:.0f}; make room or choose another folder with --runs"
        )


def show(job: Job) -> str:
    """A resolved job, and who will talk to whom, for `--dry-run`."""
    text = yaml.safe_dump(dump(job), sort_keys=False, allow_unicode=True, default_flow_style=None)
    policies = ", ".join(dict.fromkeys(job.policies.values()))
    judges = f"fetches weights, plays against {', '.join(job.evaluation.against)}"
    table = {
        "store": job.store.url
        or "started for the run: 127.0.0.1, a free port, a password made for it",
        "weight server": "gRPC on 127.0.0.1, a free port, a token made for the run",
        "Ray": "a head on 127.0.0.1, free ports, a token made for the run",
        "learner": f"takes blocks from the store, publishes {policies} over gRPC",
        "actors": f"{job.actors.count} x {job.actors.tables} tables of {job.game.name}; fetch weights "
        "over gRPC, push blocks to the store",
        "evaluator": judges if job.evaluation.every else "off",
    }
    return text + "\n" + "\n".join(f"# {who:14} {what}" for who, what in table.items())


class _Loader(yaml.SafeLoader):
    """YAML without surprises: a key named twice is an error."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # YAML itself refuses it below
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        mapping: Mapping[Hashable, object] = super().construct_mapping(node, deep)
        return dict(mapping)
