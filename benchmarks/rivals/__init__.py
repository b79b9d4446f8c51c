"""Other libraries, each installed from PyPI into an environment of its own and run as a script.

The scripts beside this file run there: they import neither Troupe nor one another, and print what
they measured as JSON on their last line.
"""

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".rivals"
TORCH = "torch==2.13.0"  # the same as ours: its CPU build is what both are measured with
REQUIREMENTS = {
    "sb3": ("stable-baselines3==2.9.2", "gymnasium[mujoco]==1.4.0", TORCH),
    "rllib": ("ray[rllib]==2.60.0", "psutil", TORCH),
    "trl": ("trl==1.16.0", "transformers==5.23.0", TORCH),
}


def python(name: str) -> Path:
    """The interpreter of a rival's environment, which is made on first use (minutes, 1-2 GB)."""
    folder = ENVIRONMENTS / name
    interpreter = folder / "bin" / "python"
    done = folder / "installed"
    wanted = "\n".join(REQUIREMENTS[name])
    if not done.exists() or done.read_text() != wanted:
        print(f"installing {name}: {', '.join(REQUIREMENTS[name])}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        command = [interpreter, "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]]
        subprocess.run(command, check=True, stdout=sys.stderr)
        done.write_text(wanted)
    return interpreter


def run(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a rival's script and return what it measured.

    Raises:
        RuntimeError: it failed; the message has the end of what it said.
    """
    # A script may be called as its library is: its folder is not where Python is to look first.
    command = [str(python(name)), "-P", str(HERE / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured
