"""Looks at whether this machine has what a run needs."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from troupe import __version__
from troupe.errors import TroupeError, UserError
from troupe.jobs import node, stores
from troupe.jobs.load import check_disk
from troupe.jobs.targets import Finding
from troupe.runs import writing
from troupe.store import server
from troupe.store.connection import address, check_server

_NEEDED = ("ray", "torch", "redis", "grpcio")
_GPU_SECONDS = 10.0


def examine_here(runs: Path) -> Iterator[Finding]:
    """Everything that a run on this machine, with its folder below `runs`, would need."""
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("troupe", True, f"{__version__}, {system}", {"python": platform.python_version()})
    yield _packages()
    yield _gpus()
    yield _store()
    yield _memory()
    yield _runs(runs)


def _packages() -> Finding:
    found, missing = {}, []
    for name in _NEEDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    told = ", ".join(f"{name} {number}" for name, number in found.items())
    if missing:
        return Finding(
            "packages", False, f"{', '.join(missing)} missing: pip install troupe", found
        )
    return Finding("packages", True, told, found)


def _gpus() -> Finding:
    """Asked of the driver: importing torch for that takes seconds."""
    if shutil.which("nvidia-smi") is None:
        return Finding("GPUs", True, "none", {"count": 0})
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=_GPU_SECONDS)
    except subprocess.TimeoutExpired:
        return Finding("GPUs", False, "nvidia-smi does not answer; is the driver sound?")
    names = said.stdout.strip().splitlines()
    if said.returncode:
        return Finding("GPUs", False, f"{(said.stdout + said.stderr).strip()[:200]}")
    return Finding("GPUs", True, ", ".join(names), {"count": len(names)})


def _store() -> Finding:
    named = os.environ.get(stores.URL)
    try:
        if named:
            url = stores.complete(named)
            check_server(url)
            return Finding("store", True, f"{address(url)} answers")
        return Finding("store", True, f"{server.find_binary()}, started for each run")
    except TroupeError as error:
        return Finding("store", False, str(error))


def _memory() -> Finding:
    if node.memory() is not None:
        return Finding(
            "memory",
            True,
            f"{shutil.disk_usage(node.MEMORY).free / 2**30:.1f} GiB in {node.MEMORY}",
        )
    return Finding(
        "memory", True, f"little in {node.MEMORY}: weights go by way of the disk, more slowly"
    )


def _runs(runs: Path) -> Finding:
    try:
        check_disk(runs)
        with writing(runs):
            runs.mkdir(parents=True, exist_ok=True)
            probe = runs / f".doctor.{os.getpid()}"
            probe.touch()
            probe.unlink()
    except UserError as error:
        return Finding("runs", False, str(error))
    return Finding("runs", True, f"{runs.absolute()} can be written")
