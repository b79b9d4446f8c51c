"""Checkpoints: all that a learner needs to go on, in a folder that is there whole or not at all.

    RUN/checkpoints/step-000001920000/
        manifest.json                   who wrote it, counters, position, random states, checksums
        landlord.weights.safetensors    per policy its weights, and what else its training depends
        landlord.state.safetensors      on: optimizers, target network
        landlord.weights-11.safetensors in lockstep with a lag: versions that are still to be played with
        landlord.replay.safetensors     in lockstep: the steps that it may learn from again
        actors.safetensors              in lockstep: what each actor needs for the next turn
        rank-1.safetensors              of several ranks: what each but the first has of its own

A checkpoint is written in a hidden folder, forced to the disk, then renamed. What a
crash leaves behind is ignored by readers and removed by the next save.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import pydantic
import safetensors
import safetensors.numpy
import xxhash

from troupe.episodes import Array, Columns
from troupe.errors import TroupeError

FORMAT = 2
FOLDER = "checkpoints"
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-\d{12,}")
_FILE = r"^[A-Za-z0-9][A-Za-z0-9_.-]*\.safetensors$"


class CheckpointError(TroupeError):
    """A checkpoint cannot be written or read: names the file, what is wrong, and what to do."""


class Position(pydantic.BaseModel, frozen=True):
    """How far a learner has trained through one stream of blocks."""

    generation: str = ""
    """Which memory of the store the ids belong to; a store that came back empty has another."""
    after: str = "0-0"
    """Every block up to this id is trained on."""
    rows: Mapping[str, int] = pydantic.Field(default_factory=dict)
    """Of later blocks, by id: how many rows are trained on, counted from the first."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A learner's whole state between two updates."""

    run: str
    game: str
    algorithm: str
    step: int
    """Steps trained on."""
    updates: Mapping[str, int]
    """By policy; also the version of its weights."""
    weights: Mapping[str, Columns]
    """By policy: tensors by parameter name."""
    states: Mapping[str, Columns] = field(default_factory=dict)
    """By policy: what else its training depends on, tensors by name."""
    past: Mapping[str, Mapping[int, Columns]] = field(default_factory=dict)
    """By policy: earlier weights that are still to be played with, by version."""
    replays: Mapping[str, Columns] = field(default_factory=dict)
    """By policy: what its replay memory holds."""
    resume: Mapping[int, bytes] = field(default_factory=dict)
    """By actor: what it needs to play the next turn."""
    ranks: Mapping[int, Columns] = field(default_factory=dict)
    """By rank of the learner but the first: what it has of its own, tensors by name."""
    settings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By policy: settings that its algorithm moves as it goes."""
    documents: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """What else is saved with the run, by name, as JSON can hold it."""
    counters: Mapping[str, float] = field(default_factory=dict)
    """What else has been counted, such as seconds of training."""
    positions: Mapping[str, Position] = field(default_factory=dict)
    """By shard of the store."""
    random: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """States of random streams, by name, as JSON can hold them."""


class _Manifest(pydantic.BaseModel):
    format: int
    run: str
    game: str
    algorithm: str
    step: Annotated[int, pydantic.Field(ge=0)]
    updates: dict[str, int]
    counters: dict[str, float]
    positions: dict[str, Position]
    random: dict[str, dict[str, object]]
    settings: dict[str, dict[str, float]]
    documents: dict[str, dict[str, object]]
    files: dict[Annotated[str, pydantic.Field(pattern=_FILE)], str]
    """By file name: the XXH3 checksum of its bytes."""


def save(run_folder: Path, state: Checkpoint, *, keep: int = 3) -> Path:
    """Write a checkpoint below `run_folder`, then delete all but the newest `keep`.

    Returns once it would survive a power cut. A step that is saved already is left as it is:
    without training nothing has changed that matters.

    Raises:
        CheckpointError: the disk is full or not writable. What was saved before is unharmed.
    """
    folder = run_folder / FOLDER
    target = folder / f"step-{state.step:012d}"
    if target in available(run_folder):
        return target
    aside = folder / f".{target.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_behind in folder.glob(".*.tmp"):
            shutil.rmtree(left_behind)
        aside.mkdir()
        _write_files(aside, state)
        _sync(aside)
        aside.rename(target)
        _sync(folder)
        for old in available(run_folder)[:-keep]:
            _remove(old)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        _refuse_to_save(target, error)
    return target


def available(run_folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first; one that lost files since is among them."""
    folder = run_folder / FOLDER
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))


def check_fits(
    path: Path, state: Checkpoint, game: str, algorithm: str, policies: Iterable[str]
) -> None:
    """See that what was read from `path` is of this job.

    Raises:
        CheckpointError: it is another job's.
    """
    if (state.game, state.algorithm, {*state.updates}) != (game, algorithm, {*policies}):
        raise CheckpointError(
            f"{path}: a checkpoint of {state.algorithm} on {state.game} for "
            f"{', '.join(state.updates)}, which this job does not train; move it away"
        )


def newest(run_folder: Path) -> Path:
    """The newest finished checkpoint of a run.

    Raises:
        CheckpointError: there is none.
    """
    found = available(run_folder)
    if not found:
        raise CheckpointError(f"{run_folder / FOLDER}: no checkpoint here yet; train first")
    return found[-1]


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; its arrays are this process's own.

    Raises:
        CheckpointError: a file is missing, damaged, of another format or not a checkpoint's.
    """
    manifest = _read_manifest(path)
    tensors = {name: _read_tensors(path / name, sum_) for name, sum_ in manifest.files.items()}
    missing = [_weights(policy) for policy in manifest.updates if _weights(policy) not in tensors]
    if missing:
        raise CheckpointError(f"{path / MANIFEST}: names no file {missing[0]}; {_REMEDY}")
    past: dict[str, dict[int, Columns]] = {}
    for file, columns in tensors.items():
        if found := _PAST.fullmatch(file):
            past.setdefault(found["policy"], {})[int(found["version"])] = columns
    ranks = {int(found[1]): tensors[f] for f in tensors if (found := _RANK.fullmatch(f))}
    actors = tensors.get(_ACTORS, {})
    return Checkpoint(
        run=manifest.run,
        game=manifest.game,
        algorithm=manifest.algorithm,
        step=manifest.step,
        updates=manifest.updates,
        weights={policy: tensors[_weights(policy)] for policy in manifest.updates},
        states={p: tensors[_state(p)] for p in manifest.updates if _state(p) in tensors},
        past=past,
        replays={p: tensors[_replay(p)] for p in manifest.updates if _replay(p) in tensors},
        resume={int(slot): column.tobytes() for slot, column in actors.items()},
        ranks=ranks,
        settings=manifest.settings,
        documents=manifest.documents,
        counters=manifest.counters,
        positions=manifest.positions,
        random=manifest.random,
    )


def load_policy(path: Path, policy: str) -> dict[str, Array]:
    """One policy's weights by parameter name.

    Raises:
        CheckpointError: as `load`, or the checkpoint has no such policy.
    """
    manifest = _read_manifest(path)
    name = _weights(policy)
    if name not in manifest.files:
        held = ", ".join(sorted(manifest.updates))
        raise CheckpointError(f"{path}: holds no policy {policy!r}; it has {held}")
    return _read_tensors(path / name, manifest.files[name])


_REMEDY = "remove this folder to go back to the checkpoint before it"


def _weights(policy: str) -> str:
    return f"{policy}.weights.safetensors"


def _state(policy: str) -> str:
    return f"{policy}.state.safetensors"


def _past(policy: str, version: int) -> str:
    return f"{policy}.weights-{version}.safetensors"


def _replay(policy: str) -> str:
    return f"{policy}.replay.safetensors"


_PAST = re.compile(r"(?P<policy>.+)\.weights-(?P<version>\d+)\.safetensors")
_RANK = re.compile(r"rank-(\d+)\.safetensors")
_ACTORS = "actors.safetensors"


def _tensors(state: Checkpoint) -> dict[str, Columns]:
    """By file name."""
    held = {_weights(policy): tensors for policy, tensors in state.weights.items()}
    held |= {_state(policy): tensors for policy, tensors in state.states.items()}
    held |= {_replay(policy): tensors for policy, tensors in state.replays.items()}
    for policy, versions in state.past.items():
        held |= {_past(policy, version): tensors for version, tensors in versions.items()}
    held |= {f"rank-{rank}.safetensors": columns for rank, columns in state.ranks.items()}
    if state.resume:
        actors = state.resume.items()
        held[_ACTORS] = {str(slot): np.frombuffer(data, np.uint8) for slot, data in actors}
    return held


def _write_files(folder: Path, state: Checkpoint) -> None:
    files = {}
    for name, tensors in _tensors(state).items():
        # `asarray` rather than `ascontiguousarray`, which gives a single value a dimension.
        data = safetensors.numpy.save({key: np.asarray(tensors[key], order="C") for key in tensors})
        files[name] = _checksum(data)
        _write(folder / name, data)
    manifest = _Manifest(
        format=FORMAT,
        run=state.run,
        game=state.game,
        algorithm=state.algorithm,
        step=state.step,
        updates=dict(state.updates),
        counters=dict(state.counters),
        positions=dict(state.positions),
        random={name: dict(held) for name, held in state.random.items()},
        settings={name: dict(held) for name, held in state.settings.items()},
        documents={name: dict(held) for name, held in state.documents.items()},
        files=files,
    )
    _write(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Force a folder's entries to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint; interrupted, it leaves what the next save removes."""
    aside = checkpoint.with_name(f".{checkpoint.name}.tmp")
    checkpoint.rename(aside)
    shutil.rmtree(aside)


def _refuse_to_save(target: Path, error: OSError) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise CheckpointError(
            f"{target}: not saved, the disk is full; make room (earlier checkpoints are unharmed)"
        ) from None
    raise CheckpointError(f"{target}: not saved: {error.strerror or error}") from None


def _read_manifest(path: Path) -> _Manifest:
    file = path / MANIFEST
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: not a checkpoint: it has no {MANIFEST}; {_REMEDY}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        data = json.loads(text)
    except ValueError:
        raise CheckpointError(f"{file}: not JSON, it is damaged; {_REMEDY}") from None
    form = data.get("format") if isinstance(data, dict) else None
    if form != FORMAT:
        raise CheckpointError(
            f"{file}: format {form!r}, this version reads format {FORMAT}; "
            "use the version of troupe that wrote it"
        )
    try:
        return _Manifest.model_validate(data)
    except pydantic.ValidationError as error:
        at = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CheckpointError(
            f"{file}: {at}: {error.errors()[0]['msg'].lower()}; {_REMEDY}"
        ) from None


def _read_tensors(file: Path, checksum: str) -> dict[str, Array]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}; {_REMEDY}") from None
    if _checksum(data) != checksum:
        raise CheckpointError(f"{file}: damaged, its checksum does not match; {_REMEDY}")
    try:
        tensors: dict[str, Array] = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file}: not a file of tensors: {error}; {_REMEDY}") from None
    return tensors


def _checksum(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)
