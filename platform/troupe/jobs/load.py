"""From a job file and overrides to a job that is known to be sound."""

import importlib
import shutil
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from troupe.config import dump, parse
from troupe.errors import UserError
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
    job = parse(Job, data)
    check(job)
    return job


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
    except yaml.YAMLError as error:
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
    except yaml.YAMLError:
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
    seats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a job's names stand for."""

    seats: tuple[str, ...]
    policies: tuple[str, ...]
    """By seat."""
    algorithm: object
    """The algorithm's own `Config`."""


def check(job: Job) -> Parts:
    """Look at what no single key can tell: names that must exist, and keys that must fit each other.

    Raises:
        UserError: one line for the first thing that would not run.
    """
    game = _game(job)
    unknown = [seat for seat in job.policies if seat not in game.seats]
    if unknown:
        raise UserError(
            f"policies.{unknown[0]}: {job.game.name} has no such seat; it has {', '.join(game.seats)}"
        )
    policies = tuple(job.policies.get(seat, seat) for seat in game.seats)
    algorithm = _algorithm(job)
    batch = getattr(algorithm, "batch", 0)
    needed = len(set(policies)) * batch + job.actors.count * job.actors.block_steps
    if job.store.capacity < needed:
        raise UserError(
            f"store.capacity: {job.store.capacity} is too small: {len(set(policies))} policies collect "
            f"{batch} steps each while {job.actors.count} actors bring {job.actors.block_steps} at a "
            f"time; {needed} or more"
        )
    agents = importlib.import_module("troupe_actors.agents")
    for opponent in job.evaluation.against:
        agents.check(opponent, job.game.name, "evaluation.against")
    _check_devices(job)
    return Parts(game.seats, policies, algorithm)


def _game(job: Job) -> _Game:
    games = importlib.import_module("troupe_actors.games")
    game: _Game = games.load(job.game.name, job.game.rules)
    return game


def _algorithm(job: Job) -> object:
    options = dict(job.algorithm)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError("algorithm.name: missing; an algorithm such as deep_monte_carlo")
    module = find("troupe_learners", name, "algorithm.name")
    if not hasattr(module, "Config"):
        raise UserError(f"algorithm.name: {name!r} is no algorithm: it has no Config")
    settings: object = parse(module.Config, options, "algorithm")
    return settings


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


def show(job: Job, parts: Parts) -> str:
    """The resolved job, and who will talk to whom, for `--dry-run`."""
    text = yaml.safe_dump(dump(job), sort_keys=False, allow_unicode=True, default_flow_style=None)
    store = job.store.url or "started for the run on 127.0.0.1, a free port, password made for it"
    table = [
        ("store", store),
        ("weight server", "gRPC on 127.0.0.1, a free port, token made for the run"),
        ("Ray", "a head on 127.0.0.1, free ports, token made for the run"),
        ("learner", f"takes blocks from the store, publishes {_list(parts.policies)} over gRPC"),
        ("actors", f"{job.actors.count} x {job.actors.tables} tables of {job.game.name}; "
                   "fetch weights over gRPC, push blocks to the store"),
        ("evaluator", f"fetches weights, plays {_list(job.evaluation.against)}"
                      if job.evaluation.every else "off"),
    ]  # fmt: skip
    return text + "\n" + "\n".join(f"# {who:14} {what}" for who, what in table)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(names))


class _Loader(yaml.SafeLoader):
    """YAML without surprises: a key named twice is an error."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        mapping: Mapping[Hashable, object] = super().construct_mapping(node, deep)
        return dict(mapping)
