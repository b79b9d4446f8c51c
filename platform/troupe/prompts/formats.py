"""Rows of the files that prompts come in, one after the other, each with where it is."""

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, NoReturn, Protocol

from troupe.errors import UserError

EXTRA = "text"
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
_SAVED = ("dataset_dict.json", "state.json")
"""One of them is in a folder that `datasets` has saved."""
_BATCH = 1024


class Row(NamedTuple):
    """A row of a file."""

    where: str
    """The file and the line or row, counted from 1, for people."""
    values: Mapping[str, object]


class _Reader(Protocol):
    def __call__(self, path: Path, split: str | None, key: str) -> Iterator[Row]: ...


def rows(path: Path, format_: str, split: str | None, key: str) -> Iterator[Row]:
    """The rows of a file or folder in a format, or in the one that it seems to have.

    `key` is where the settings stand, for the error.

    Raises:
        UserError: there is none, it cannot be read, or it needs an extra that is not installed.
    """
    if not path.exists():
        raise UserError(f"{key}.path: {path}: no such file or folder")
    if format_ == "auto" and path.is_file() and path.suffix not in SUFFIXES:
        raise UserError(
            f"{key}.path: {path}: its name says nothing of its format; name it "
            f"{', '.join(SUFFIXES)}, or set {key}.format"
        )
    if split is not None and path.is_file():
        raise UserError(f"{key}.split: {split!r}: {path} is a file, which has none; leave it out")
    try:
        yield from _reader(path, format_)(path, split, key)
    except OSError as error:
        raise UserError(f"{key}.path: {path}: {error.strerror or error}") from None


def _reader(path: Path, format_: str) -> _Reader:
    if format_ == "auto":
        saved = any((path / name).exists() for name in _SAVED)
        format_ = "datasets" if saved else "folder" if path.is_dir() else SUFFIXES[path.suffix]
    return _READERS["folder" if path.is_dir() and format_ != "datasets" else format_]


def _folder(path: Path, split: str | None, key: str) -> Iterator[Row]:
    """All files of a folder, by name; with a split, those that are called after it."""
    found = sorted(file for file in path.rglob("*") if file.suffix in (".jsonl", ".parquet"))
    files = [file for file in found if split is None or file.name.startswith(split)]
    if not files:
        there = ", ".join(str(file.relative_to(path)) for file in found[:8]) or "none of any name"
        named = f"called {split}*" if split else "of prompts"
        raise UserError(f"{key}.path: {path}: no file {named} (.jsonl, .parquet); there: {there}")
    for file in files:
        yield from _READERS[SUFFIXES[file.suffix]](file, None, key)


def _json_lines(path: Path, split: str | None, key: str) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield Row(f"{path}:{number}", _object(line, f"{path}:{number}"))


def _object(line: bytes, where: str) -> Mapping[str, object]:
    try:
        values = json.loads(line, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8; save the file as UTF-8") from None
    except ValueError as error:
        reason = error.msg.lower() if isinstance(error, json.JSONDecodeError) else str(error)
        cut = "" if line.endswith(b"\n") else "; the file may have been cut off here"
        raise UserError(
            f"{where}: not a whole JSON object ({reason}); one a line is needed{cut}"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{where}: {line[:40]!r} is JSON but no object of columns")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _parquet(path: Path, split: str | None, key: str) -> Iterator[Row]:
    parquet = _library("pyarrow.parquet", path, key)
    try:
        batches = parquet.ParquetFile(path).iter_batches(batch_size=_BATCH)
        found = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(found, 1):
            yield Row(f"{path} row {number}", row)
    except _library("pyarrow", path, key).ArrowException as error:
        raise UserError(f"{key}.path: {path}: not a sound Parquet file: {error}") from None


def _saved(path: Path, split: str | None, key: str) -> Iterator[Row]:
    datasets = _library("datasets", path, key)
    try:
        data = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{key}.path: {path}: not a folder of `datasets`: {reason}") from None
    if isinstance(data, datasets.DatasetDict):
        data = data[_choose(path, [*data], split, key)]
    for number, row in enumerate(data, 1):
        yield Row(f"{path} row {number}", row)


def _choose(path: Path, splits: list[str], split: str | None, key: str) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split not in splits:
        raise UserError(f"{key}.split: {split}: {path} has {', '.join(splits)}; choose one")
    return split


def _library(name: str, path: Path, key: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise UserError(
            f"{key}.path: reading {path} needs {name.partition('.')[0]}; pip install 'troupe[{EXTRA}]'"
        ) from None


_READERS: Mapping[str, _Reader] = {
    "folder": _folder,
    "jsonl": _json_lines,
    "parquet": _parquet,
    "datasets": _saved,
}
