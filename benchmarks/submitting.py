"""How long it takes from `troupe submit` to a learner's first update, on a cluster that is up.

A Ray head with a dashboard is started on loopback, with a token. A first run warms it up; of the
second the time is taken, from the start of the command until the checkpoint is there that holds the
first update. A job that stops after one update writes it at once.
"""

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from running import EXAMPLES, ROOT, tail

JOB = EXAMPLES / "doudizhu.yaml"
TROUPE = (sys.executable, "-m", "troupe.cli")
CPUS = 8
PATIENCE = 180.0


def missing() -> str:
    """What there is not, of what is needed; empty where all is there."""
    told = subprocess.run([*TROUPE, "submit", "--help"], capture_output=True, check=False)
    if told.returncode:
        return "this version has no `troupe submit`"
    if importlib.util.find_spec("aiohttp") is None:
        return "Ray's dashboard is not installed: pip install 'ray[default]'"
    return ""


def first_update() -> float:
    """Seconds from `troupe submit` to the first update, on a cluster that has run the job before."""
    with tempfile.TemporaryDirectory() as name, cluster() as (address, environment):
        runs = Path(name, "runs")
        return [submitted(f"run-{i}", runs, address, environment) for i in range(2)][-1]


@contextlib.contextmanager
def cluster() -> Iterator[tuple[str, Mapping[str, str]]]:
    """A Ray cluster: its dashboard's address, and the environment that has its token."""
    sys.path.append(str(ROOT / "tests"))
    from ray_nodes import RayNodes

    nodes = RayNodes(cpus=CPUS, dashboard=True)
    try:
        yield nodes.http, nodes.environment
    finally:
        nodes.close()


def submitted(run: str, runs: Path, address: str, environment: Mapping[str, str]) -> float:
    """Send a run there, wait for its first update, and see it off; the seconds."""
    begun = time.monotonic()
    troupe(environment, "submit", str(JOB), "stop.updates=1", "--to", address, "--name", run,
           "--runs", str(runs))  # fmt: skip
    while not any((runs / run / "checkpoints").glob("step-*")):
        if time.monotonic() - begun > PATIENCE:
            sys.exit(f"{run}: no update within {PATIENCE:.0f} s")
        time.sleep(0.05)
    seconds = time.monotonic() - begun
    troupe(environment, "down", run, "--to", address)
    return seconds


def troupe(environment: Mapping[str, str], *arguments: str) -> None:
    """Run one command; exits where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        with output.open("wb") as file:
            done = subprocess.run(
                [*TROUPE, *arguments], env=environment, stdout=file, stderr=file, check=False
            )
        if done.returncode:
            sys.exit(f"troupe {arguments[0]} failed:\n{tail(output)}")
