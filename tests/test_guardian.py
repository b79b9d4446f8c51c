"""Whatever a launcher started is gone once the launcher is, however it went."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from troupe.jobs.guardian import MARK, Guardian, Herd, marked

ALIVE = "import time; print('alive', flush=True); time.sleep(600)"
"""A process that says when it is there: one still in its `exec` has no environment to read."""

LAUNCHER = f"""
import os, subprocess, sys, time
from pathlib import Path
from troupe.jobs.guardian import Guardian
Guardian(sys.argv[1], [Path(sys.argv[2])])
environment = {{**os.environ, "TROUPE_GUARD": sys.argv[1]}}
subprocess.Popen([sys.executable, "-c", {ALIVE!r}], env=environment, start_new_session=True)
time.sleep(600)
"""

FORGETFUL = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {ALIVE!r}], env={{}}, start_new_session=True)
time.sleep(600)
"""


def start(code: str, mark: str) -> subprocess.Popen[str]:
    """Run code under a mark, up to the moment a process in it says that it is alive."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "alive\n"
    return process


@pytest.mark.parametrize("end", ["kill -9", "orderly"])
def test_nothing_marked_outlives_the_launcher(tmp_path: Path, end: str) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "socket").touch()
    mark = f"test-{os.getpid()}-{end}"
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, mark, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "alive\n"
    left = marked(mark)
    guardians = psutil.Process(launcher.pid).children()
    assert len(left) == 1

    launcher.kill() if end == "kill -9" else launcher.terminate()
    launcher.wait()
    _, alive = psutil.wait_procs([*left, *guardians], timeout=10)
    assert not alive
    assert not folder.exists()


def test_a_zombie_is_not_waited_for(tmp_path: Path) -> None:
    mark = f"test-{os.getpid()}-zombie"
    child = start(ALIVE, mark)
    herd = Herd(mark)
    assert herd.look() == {psutil.Process(child.pid)}
    herd.end()  # this process, its parent, has not waited for it
    assert not herd.look()
    assert child.wait() == -9


def test_finishing_waits_until_all_is_clean(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    mark = f"test-{os.getpid()}-finish"
    guardian = Guardian(mark, [folder])
    child = start(ALIVE, mark)
    guardian.finish()
    assert child.wait(timeout=1) == -9
    assert not folder.exists()


def test_one_that_lost_its_mark_is_found_by_its_descent() -> None:
    mark = f"test-{os.getpid()}-descent"
    parent = start(FORGETFUL, mark)
    herd = Herd(mark)
    (child,) = herd.look() - {psutil.Process(parent.pid)}
    parent.kill()
    parent.wait()
    herd.end()
    _, alive = psutil.wait_procs([child], timeout=10)
    assert not alive
