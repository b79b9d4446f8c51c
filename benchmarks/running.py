"""Runs as a person starts them, watched from outside: what they trained on, and what that took."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SERVERS = ("redis-server", "valkey-server")


@dataclass(frozen=True)
class Run:
    """A run that goes on."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    output: Path

    def lines(self) -> list[dict[str, float]]:
        """What its journal has so far: a line a second."""
        journal = self.folder / "metrics.jsonl"
        if not journal.exists():
            return []
        return [json.loads(line) for line in journal.read_text().splitlines()]

    def family(self) -> list[psutil.Process]:
        """The launcher, every process that was told of the run's folder, and the store."""
        found = [psutil.Process(self.process.pid)]
        for other in psutil.process_iter():
            try:
                if other.environ().get("TROUPE_RUN_FOLDER") == str(self.folder):
                    found.append(other)
            except psutil.Error:
                continue
        store = self.store()  # a server may write over its environment
        return found if store in found else [*found, store]

    def store(self) -> psutil.Process:
        """The Redis-protocol server that was started for the run."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            if process.name() in SERVERS:
                return process
        sys.exit(f"no store runs:\n{tail(self.output)}")

    def worker(self, name: str) -> psutil.Process:
        """The process whose output goes to that worker's log, such as `weights-0`."""
        found = self.find(name)
        if found is None:
            sys.exit(f"{name} does not run:\n{tail(self.output)}")
        return found

    def find(self, name: str) -> psutil.Process | None:
        """The same, or nothing while there is no such process."""
        log = str(self.folder / "logs" / f"{name}.log")
        for process in self.family():
            try:
                if os.readlink(f"/proc/{process.pid}/fd/1") == log:
                    return process
            except OSError:
                continue
        return None

    def wait(self, until: Callable[[dict[str, float]], bool]) -> None:
        """Wait for a line of the journal; exits where the run ends before it."""
        while not any(map(until, self.lines()[-5:])):
            if self.process.poll() is not None:
                sys.exit(f"the run ended early:\n{tail(self.output)}")
            time.sleep(0.2)


@dataclass(frozen=True)
class Rate:
    """What was trained on between two lines of a journal."""

    steps: float
    """Environment steps, or tokens, trained on per second."""
    updates: float
    """Per second."""
    cpu: float
    """CPU-seconds per second, of all processes together."""
    wall: float
    """Seconds that were measured."""


@contextmanager
def running(job: Path, overrides: Sequence[str]) -> Iterator[Run]:
    """Start a job in a scratch folder; it is ended afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "output")
        command = [sys.executable, "-m", "troupe.cli", "train", str(job), "name=run", *overrides]
        with output.open("wb") as file:
            process = subprocess.Popen(command, cwd=scratch, stdout=file, stderr=file)
        try:
            yield Run(process, Path(scratch, "runs/run-1"), output)
        finally:
            process.terminate()
            process.wait()


def rate(job: Path, overrides: Sequence[str], *, warm_up: float, seconds: float) -> Rate:
    """How fast a job trains, start-up left out: after `warm_up` seconds of training, for `seconds`."""
    with running(job, overrides) as run:
        run.wait(lambda line: line.get("step", 0) > 0)
        time.sleep(warm_up)
        start, before, begun = len(run.lines()), cpu(run.family()), time.monotonic()
        time.sleep(seconds)
        used = (cpu(run.family()) - before) / (time.monotonic() - begun)
        lines = run.lines()[start:]
        if len(lines) < 2:
            sys.exit(f"the run ended early:\n{tail(run.output)}")
        first, last = lines[0], lines[-1]
    wall = last["time"] - first["time"]
    return Rate(
        steps=(last["step"] - first["step"]) / wall,
        updates=(last["updates"] - first["updates"]) / wall,
        cpu=used,
        wall=wall,
    )


def cpu(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds these processes have used."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def train(job: Path, overrides: Sequence[str], runs: Path) -> tuple[Path, float]:
    """Train a job to its end below `runs`; the run's folder, and its wall clock in seconds."""
    runs.mkdir(parents=True, exist_ok=True)
    output = runs / "output.txt"
    command = [sys.executable, "-m", "troupe.cli", "train", str(job), *overrides]
    begun = time.monotonic()
    with output.open("wb") as file:
        command += ["--runs", str(runs)]
        status = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
    if status:
        sys.exit(f"the run failed with exit code {status}\n{tail(output)}")
    folder = max(runs.glob("*/job.yaml"), key=lambda path: path.stat().st_mtime).parent
    return folder, time.monotonic() - begun


def tail(output: Path) -> str:
    """The last lines of what a run said."""
    return "\n".join(output.read_text(errors="replace").splitlines()[-10:])
