"""Work in a process of its own: its result, its errors and its end come back."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from troupe.errors import TroupeError, UserError
from troupe.jobs.aside import aside
from troupe.jobs.load import read_yaml

PARENT = """
import time
from troupe.jobs.aside import aside
if __name__ == "__main__":
    aside(time.sleep, 60.0)
"""


def test_what_it_gives_comes_from_another_process() -> None:
    process = aside(os.getpid)
    assert process != os.getpid()
    assert not psutil.pid_exists(process)
    assert aside(int, "12", base=3) == 5


def test_a_mistake_is_told_as_it_was_there() -> None:
    with pytest.raises(UserError, match=r"^nowhere\.yaml: cannot be read: No such file"):
        aside(read_yaml, Path("nowhere.yaml"))


def test_a_crash_is_one_line() -> None:
    with pytest.raises(TroupeError, match="crashed in code that the job names"):
        aside(os.abort)


def test_it_does_not_outlive_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT])
    below: list[psutil.Process] = []
    deadline = time.monotonic() + 30.0
    while len(below) < 2:  # the worker, and what looks after multiprocessing's resources
        assert time.monotonic() < deadline
        below = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(0.01)
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(below, timeout=10.0)
    assert not alive
