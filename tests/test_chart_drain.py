"""What a pod of Ray does before it ends, in a namespace of processes of its own."""

import shutil
import subprocess
from pathlib import Path

import charts
import pytest

ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
pytestmark = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode != 0,
    reason="this user cannot make a namespace of processes",
)

DRIVER = """#!/bin/sh
trap 'sleep 1; echo saved >>"{told}"; exit 0' TERM
echo ready >>"{told}"
while true; do sleep 0.1; done
"""
POD = """
export PATH="{folder}:$PATH"
{folder}/troupe train job.yaml &
until grep -qs ready "{told}"; do sleep 0.05; done
sh {script} {seconds}
kill -0 $! 2>/dev/null && echo alive >>"{told}"
exit 0
"""


def _drain(folder: Path, seconds: int) -> list[str]:
    """What happened, in order, while a pod with a driver was drained."""
    told = folder / "told"
    programs = {"troupe": DRIVER, "ray": '#!/bin/sh\necho "ray $*" >>"{told}"\n'}
    for name, text in programs.items():
        (folder / name).write_text(text.format(told=told))
        (folder / name).chmod(0o755)
    script = charts.CHART / "files" / "drain.sh"
    pod = POD.format(folder=folder, told=told, script=script, seconds=seconds)
    subprocess.run([*ALONE, "sh", "-c", pod], check=True, timeout=60)
    return told.read_text().split("\n")[:-1]


def test_the_driver_saves_before_ray_leaves(tmp_path: Path) -> None:
    assert _drain(tmp_path, 20) == ["ready", "saved", "ray stop --grace-period 5"]


def test_a_driver_that_does_not_end_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    assert _drain(tmp_path, 0)[:2] == ["ready", "ray stop --grace-period 5"]
