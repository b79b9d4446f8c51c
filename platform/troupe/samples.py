"""A run's samples: `samples.jsonl`, a prompt, a completion and its rewards on each line."""

import fcntl
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from troupe.runs import writing

PER_UPDATE = 32
"""Samples of one version of the weights that one writer keeps."""
LONGEST = 8000
"""Characters of a text that are kept."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample."""

    version: int
    """The newest weights that sampled any of it: how many updates they had had."""
    group: int
    """The same for all completions of one prompt."""
    prompt: str
    completion: str
    answer: object
    """What the data has as the answer."""
    reward: float
    """The weighted sum; NaN where a reward failed."""
    rewards: Mapping[str, float]
    """By label, unweighted; NaN where it failed."""
    tokens: int
    finish: str
    """`stop` or `length`."""
    reason: str = ""
    """Why a reward failed."""
    attempt: int = 0
    """How often the run had been started or resumed."""
    time: float = field(default_factory=time.time)
    """Unix time."""


class SampleTable:
    """Appends to a run's samples; several processes may.

    Of each version it keeps the first `per_update` samples of its own. Where they come in larger
    numbers, it keeps the best and the worst of them. Long texts lose their middle.
    """

    def __init__(self, path: Path, *, attempt: int = 0, per_update: int = PER_UPDATE) -> None:
        self._path = path
        self._attempt = attempt
        self._per_update = per_update
        self._kept: dict[int, int] = {}

    def write(self, entries: Sequence[Entry]) -> None:
        """Add what there is room for.

        Raises:
            UserError, RunFolderError: the file cannot be written.
        """
        lines: list[bytes] = []
        for version in sorted({entry.version for entry in entries}):
            room = self._per_update - self._kept.get(version, 0)
            kept = extremes([entry for entry in entries if entry.version == version], room)
            self._kept[version] = self._kept.get(version, 0) + len(kept)
            lines += [_line(replace(entry, attempt=self._attempt)) for entry in kept]
        if not lines:
            return
        with writing(self._path), self._path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # whole lines, whoever else writes
            file.write(b"\n" * _torn(self._path) + b"".join(lines))


def extremes(entries: Sequence[Entry], count: int) -> list[Entry]:
    """At most `count` of them, the best and the worst alike, in their order."""
    if len(entries) <= count:
        return list(entries)
    by_reward = ranked(entries)
    chosen = {id(e) for e in by_reward[: (count + 1) // 2] + by_reward[len(entries) - count // 2 :]}
    return [entry for entry in entries if id(entry) in chosen]


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """The best first; those that a reward failed on in the middle, since they are neither."""
    judged = sorted(
        (e for e in entries if not math.isnan(e.reward)), key=lambda e: e.reward, reverse=True
    )
    failed = [e for e in entries if math.isnan(e.reward)]
    half = (len(judged) + 1) // 2
    return judged[:half] + failed + judged[half:]


def read(path: Path, version: int | None = None) -> list[Entry]:
    """The samples of the newest version that is not above `version`.

    Where training fell back to a checkpoint, those of its newest attempt. Lines that a crash has
    torn are left out. Empty where there are none.
    """
    newest: tuple[int, int] | None = None
    found: list[Entry] = []
    for entry in _sound(path):
        if version is not None and entry.version > version:
            continue
        after = (entry.attempt, entry.version)
        key = after if version is None else after[::-1]
        if newest is None or key > newest:
            newest, found = key, []
        if key == newest:
            found.append(entry)
    return found


def versions(path: Path) -> list[int]:
    """The versions of which there are samples, rising."""
    return sorted({entry.version for entry in _sound(path)})


def _sound(path: Path) -> Iterator[Entry]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                data = json.loads(line)
                rewards = {name: _number(value) for name, value in data["rewards"].items()}
                yield Entry(**{**data, "reward": _number(data["reward"]), "rewards": rewards})
            except (ValueError, TypeError, KeyError, AttributeError):
                continue


def plain(entry: Entry) -> dict[str, object]:
    """As JSON can hold it: what is not finite is null."""
    rewards = {name: _finite(value) for name, value in entry.rewards.items()}
    return {**asdict(entry), "reward": _finite(entry.reward), "rewards": rewards}


def _line(entry: Entry) -> bytes:
    short = replace(
        entry,
        prompt=_cut(entry.prompt),
        completion=_cut(entry.completion),
        time=round(entry.time, 3),
    )
    return json.dumps(plain(short), default=str).encode() + b"\n"


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        file.seek(-1, 2)
        return file.read() != b"\n"
