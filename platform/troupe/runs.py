"""A run's folder: all that is needed to look at a run and to go on with it.

job.yaml        the resolved job
attempt         how often the run was started or resumed
status.json     how it stands
lock            held by the launcher while the run is running
actors          how many there are to be, where somebody changed that while it was running
prompts.json    how a run of a language model stands with its prompts
checkpoints/    metrics.jsonl    tensorboard/    logs/
prepared/       what the job made for itself before it began
samples.jsonl   of a language model: what it was asked, what it said, what that was worth
"""

import difflib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from troupe import checkpoint
from troupe.config import dump, parse
from troupe.errors import TroupeError, UserError
from troupe.jobs.spec import Job

RUNS = Path("runs")


class RunFolderError(TroupeError):
    """A run's folder cannot be written although it is the right place."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a run stands."""

    state: str
    """new, running, stopped, done, failed; killed where its launcher vanished."""
    pid: int = 0
    """The launcher's process."""
    started: float = 0.0
    """Unix time of the newest start or resume."""
    changed: float = 0.0
    """Unix time of the newest change of state."""
    message: str = ""


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.logs = path / "logs"
        self.tensorboard = path / "tensorboard"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.curves = path / "curves.png"
        self._job = path / "job.yaml"
        self._identity = path / "identity"
        self._attempt = path / "attempt"
        self._status = path / "status.json"
        self._lock = path / "lock"
        self._actors = path / "actors"

    @property
    def name(self) -> str:
        """The folder's own name, such as `doudizhu-3`."""
        return self.path.name

    @classmethod
    def create(cls, base: Path, job: Job, name: str | None = None) -> "RunFolder":
        """Make `base/<name>`, or `base/<name of the job>-<n>` with the first n higher than all before.

        Raises:
            UserError, RunFolderError: it cannot be written, or there is one of that name.
        """
        with writing(base):
            base.mkdir(parents=True, exist_ok=True)
            if name is not None:
                (base / name).mkdir()
                return cls(base / name)._furnish(job)
            number = 1 + max(_numbers(base, job.name), default=0)
            while True:
                folder = cls(base / f"{job.name}-{number}")
                try:
                    folder.path.mkdir()
                    break
                except FileExistsError:  # another launcher was faster
                    number += 1
        return folder._furnish(job)

    def _furnish(self, job: Job) -> "RunFolder":
        with writing(self.path):
            for part in (self.checkpoints, self.logs, self.tensorboard):
                part.mkdir()
        write_aside(self._identity, f"{self.name}-{secrets.token_hex(4)}\n")
        self.set_status("new")
        self.write_job(job)
        return self

    @classmethod
    def find(cls, text: str, base: Path = RUNS) -> "RunFolder":
        """The run at a path, or of a name below `base`.

        Raises:
            UserError: there is none; names runs that are called nearly so.
        """
        for path in (base / text, Path(text)):
            if (path / "job.yaml").is_file():
                return cls(path)
        if Path(text).is_dir():
            raise UserError(f"{text}: not a run's folder, it has no job.yaml")
        names = [run.name for run in list_runs(base)]
        close = difflib.get_close_matches(text, names, n=3, cutoff=0.5) or names[-3:]
        hint = f"did you mean {', '.join(close)}?" if close else "start one with `troupe train JOB`"
        raise UserError(f"{text}: no such run here or in {base}/; {hint}")

    @property
    def identity(self) -> str:
        """The run's name in the store and in checkpoints: no other run ever has it.

        Raises:
            UserError: the file that holds it cannot be read.
        """
        try:
            identity = self._identity.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(
                f"{self._identity}: cannot be read: {error.strerror}; {_LOST}"
            ) from None
        if not identity:
            raise UserError(f"{self._identity}: is empty; {_LOST}")
        return identity

    def job(self) -> Job:
        """The resolved job.

        Raises:
            UserError: job.yaml cannot be read or is not a sound job.
        """
        try:
            data = yaml.safe_load(self._job.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{self._job}: cannot be read: {_first_line(error)}") from None
        try:
            return parse(Job, data)
        except UserError as error:
            raise UserError(f"{self._job}: {error}") from None

    def write_job(self, job: Job) -> None:
        """Keep the resolved job; a resume with overrides replaces it.

        Raises:
            UserError: the run is running.
        """
        self._refuse_while_held()
        text = yaml.safe_dump(dump(job), sort_keys=False, allow_unicode=True)
        write_aside(self._job, text)

    def remove(self) -> None:
        """Delete it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def choose_checkpoint(self, name: str | None) -> None:
        """Make the checkpoint of that name the newest; None leaves the newest as it is.

        Later ones are not lost: they move to `checkpoints/later-<attempt>/`.

        Raises:
            UserError: there is none of that name, or the run is running.
        """
        if name is None:
            return
        self._refuse_while_held()
        saved = checkpoint.available(self.path)
        names = [path.name for path in saved]
        if name not in names:
            raise UserError(
                f"--checkpoint: {name!r} is not in {self.checkpoints}; "
                f"there: {', '.join(names) or 'none yet'}"
            )
        aside = self.checkpoints / f"later-{self.attempts}"
        with writing(aside):
            for later in saved[names.index(name) + 1 :]:
                aside.mkdir(exist_ok=True)
                later.rename(aside / later.name)

    def saved(self, name: str | None) -> Path:
        """The checkpoint of that name, or the newest.

        Raises:
            UserError: there is none of that name.
            CheckpointError: there is none at all.
        """
        if name is None:
            return checkpoint.newest(self.path)
        found = {path.name: path for path in checkpoint.available(self.path)}
        if name not in found:
            raise UserError(
                f"--checkpoint: {self.path} has no {name!r}; it has {', '.join(found) or 'none yet'}"
            )
        return found[name]

    @contextmanager
    def attempt(self) -> Iterator[int]:
        """Hold the run for one start or resume; gives its number, counted from 1.

        Meanwhile its state is `running`; then it is `failed` after an error, else `stopped` unless
        the block said otherwise. The hold ends with the block or with this process, however that ends.

        Raises:
            UserError: another process is running it.
        """
        with self.hold():
            number = self.attempts + 1
            write_aside(self._attempt, f"{number}\n")
            self.set_status("running", started=time.time())
            try:
                yield number
            except TroupeError as error:
                with suppress(TroupeError):  # a full disk: what it kept from being saved counts
                    self.set_status("failed", _first_line(error))
                raise
            if self.status().state == "running":
                self.set_status("stopped")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep others from running the run, until the block ends or this process does.

        Raises:
            UserError: another process is running it.
        """
        with writing(self._lock):
            lock = self._lock.open("a")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._taken() from None
            yield

    def _refuse_while_held(self) -> None:
        if self.held():
            raise self._taken()

    def _taken(self) -> UserError:
        pid = self._read_status().pid
        return UserError(f"{self.path}: is running as pid {pid}; end that first, or wait for it")

    def actors_wanted(self) -> int | None:
        """How many actors there are to be from now on; none is as the job says."""
        try:
            return int(self._actors.read_text())
        except (OSError, ValueError):
            return None

    def want_actors(self, count: int) -> None:
        """Ask the launcher for so many actors."""
        write_aside(self._actors, f"{count}\n")

    @property
    def attempts(self) -> int:
        """How often the run was started or resumed."""
        try:
            return int(self._attempt.read_text())
        except FileNotFoundError:
            return 0
        except ValueError:
            raise UserError(
                f"{self._attempt}: holds no number; write the number of starts"
            ) from None

    def set_status(self, state: str, message: str = "", started: float | None = None) -> None:
        """Write down how the run stands."""
        now = time.time()
        begun = self._read_status().started if started is None else started
        status = Status(state, os.getpid(), begun, now, message)
        write_aside(self._status, json.dumps(asdict(status)) + "\n")

    def status(self) -> Status:
        """How the run stands; `killed` where it claims to be running and no launcher holds it."""
        status = self._read_status()
        if status.state == "running" and not self.held():
            return Status("killed", status.pid, status.started, status.changed, status.message)
        return status

    def held(self) -> bool:
        """Whether a launcher is running it now."""
        try:
            with self._lock.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _read_status(self) -> Status:
        try:
            return Status(**json.loads(self._status.read_text()))
        except (OSError, ValueError, TypeError):
            return Status("unknown")


def list_runs(base: Path = RUNS) -> list[RunFolder]:
    """The runs below `base`, the newest last."""
    found = [RunFolder(job.parent) for job in base.glob("*/job.yaml")]
    return sorted(found, key=lambda run: (run.status().started, run.name))


def show(base: Path, *, as_json: bool) -> int:
    """Print the runs below `base` and how they stand; for `troupe list`."""
    rows = [_row(run) for run in list_runs(base)]
    if as_json:
        print(json.dumps(rows))
        return 0
    if not rows:
        print(f"no runs in {base}/ yet; start one with `troupe train examples/doudizhu.yaml`")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "state", "attempts", "started", "checkpoint", "message"):
        table.add_column(name, no_wrap=name != "message", justify="left")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    return 0


def _row(run: RunFolder) -> dict[str, object]:
    status = run.status()
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.started))
    saved = checkpoint.available(run.path)
    return {
        "run": run.name,
        "state": status.state,
        "attempts": run.attempts,
        "started": started if status.started else "",
        "checkpoint": saved[-1].name if saved else "",
        "message": status.message,
    }


def write_aside(path: Path, text: str) -> None:
    """Replace a small file whole: a reader sees the old text or the new, also after a crash.

    Raises:
        UserError, RunFolderError: it cannot be written; the old file is unharmed.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with aside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell in one line what keeps `path` from being written.

    Raises:
        UserError: the place is wrong; another must be chosen.
        RunFolderError: the disk is full or faulty.
    """
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in _WRONG_PLACE:
            raise UserError(f"{path}: {reason}; choose a folder that can be written") from None
        raise RunFolderError(f"{path}: {reason}; make room or mend the disk, then go on") from None


_LOST = f"write into it what a checkpoint's {checkpoint.MANIFEST} has as `run`"
_WRONG_PLACE = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def _numbers(base: Path, name: str) -> Iterator[int]:
    for path in base.iterdir():
        if match := re.fullmatch(re.escape(name) + r"-(\d+)", path.name):
            yield int(match[1])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
