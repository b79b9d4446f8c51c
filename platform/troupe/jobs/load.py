"""Job files: read, with overrides put over them, and shown."""

import shutil
from collections.abc import Hashable, Mapping
from pathlib import Path

import yaml

from troupe.config import dump
from troupe.errors import UserError
from troupe.jobs.resolve import resolve
from troupe.jobs.roles import title
from troupe.jobs.spec import Job

MIN_FREE_BYTES = 256 * 1024 * 1024


def read(path: Path, overrides: list[str], *, here: bool = True) -> Job:
    """Read a job file and put `key=value` overrides over it; the job is checked whole.

    `here`: it is to run on this machine, whose devices must do for it.

    Raises:
        UserError: the file or an override cannot be read, or the job would not run.
    """
    data = read_yaml(path)
    for override in overrides:
        put(data, override)
    return resolve(data, here=here)


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
    table = {
        **({"prepared": f"{job.prepare.name}, in the run's folder, once"} if job.prepare else {}),
        "store": job.store.url
        or "started for the run: 127.0.0.1, a free port, a password made for it",
        "weight server": "gRPC on 127.0.0.1, a free port, a token made for the run",
        "Ray": "a head on 127.0.0.1, free ports, a token made for the run",
        "learner": f"takes blocks from the store, publishes {policies} over gRPC",
        "actors": f"{job.actors.count} x {_played(job)}; {_fed(job)}",
        "evaluator": f"fetches weights, {_judged(job)}" if job.evaluation.every else "off",
    }
    return text + "\n" + "\n".join(f"# {who:14} {what}" for who, what in table.items())


def _played(job: Job) -> str:
    if job.text is not None:
        return f"{job.text.engine.slots} sequences of {title(job)}, by {job.text.engine.name}"
    if job.environment is not None:
        return f"{job.actors.environments} environments {title(job)}"
    return f"{job.actors.tables} tables of {title(job)}"


def _fed(job: Job) -> str:
    if job.actors.colocated:
        return f"in {'processes beside' if job.lag else 'the process of'} the learner"
    return "fetch weights over gRPC, push blocks to the store"


def _judged(job: Job) -> str:
    if job.environment is not None:
        return f"plays {job.evaluation.episodes} episodes"
    if job.text is not None:
        return f"answers {(job.evaluation.prompts or job.text.prompts).path}"
    return f"plays against {', '.join(job.evaluation.against)}"


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
