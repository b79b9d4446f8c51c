"""Ray for one run: a private head on this machine."""

import importlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from troupe.errors import TroupeError

START_SECONDS = 60.0
_STANDARD_ERROR = 2
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
OBJECT_STORE_BYTES = 80 * 1024 * 1024
TUNED = {
    # Each process computes on one core: numpy's threads wait for one another on busy ones.
    "OPENBLAS_NUM_THREADS": "1",
    # A tenth less memory at the same speed: batches come in many shapes, from several threads.
    "MALLOC_ARENA_MAX": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
}
"""What every worker's environment has before it starts."""


class ClusterError(TroupeError):
    """Ray did not start, or is gone."""


def environment() -> dict[str, str]:
    """What Ray's processes need to see: closed to others, quiet, small, and not slowed down.

    Exported before Ray starts rather than through `runtime_env`, so that workers started ahead
    are used.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everything binds to the node's own address
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_worker_niceness": "0",
        # Ranks of a learner talk to one another here only.
        "GLOO_SOCKET_IFNAME": _LOOPBACK,
        "NCCL_SOCKET_IFNAME": _LOOPBACK,
        # Deaths and retries are told by us, in a line each: Ray's long ones are skipped.
        "RAY_DEDUP_LOGS": "1",
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
        **TUNED,
    }


class LocalCluster:
    """A Ray head on 127.0.0.1 for one run."""

    def __init__(self, folder: Path) -> None:
        self._address = folder / "ray_current_cluster"
        self._log = folder / "ray.log"
        self._joined = False
        with self._log.open("wb") as log:
            self._head = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("ray")),
                    "start",
                    "--head",
                    "--block",
                    "--node-ip-address=127.0.0.1",
                    "--port=0",
                    f"--ray-client-server-port={_free_port()}",  # it cannot be turned off
                    "--include-dashboard=false",
                    "--include-log-monitor=false",
                    "--no-monitor",
                    "--disable-usage-stats",
                    f"--object-store-memory={OBJECT_STORE_BYTES}",
                    f"--temp-dir={folder}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def connect(self, stop: threading.Event) -> bool:
        """Wait for the head and join it; false if `stop` was set first.

        Raises:
            ClusterError: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._address.exists():
            if not self.alive():
                raise ClusterError(f"Ray did not start: {_last_line(self._log)}")
            if time.monotonic() > deadline:
                raise ClusterError(f"Ray did not start within {START_SECONDS:.0f} s")
            if stop.wait(0.05):
                return False
        import ray

        ours = signal.getsignal(signal.SIGTERM)
        ray.init(
            address=self._address.read_text().strip(),
            log_to_driver=False,
            configure_logging=False,
        )
        signal.signal(signal.SIGTERM, ours)  # Ray's own ends us without a word to the learner
        self._joined = True
        return True

    def alive(self) -> bool:
        """Whether the head still runs."""
        return self._head.poll() is None

    def disconnect(self) -> None:
        """Leave the cluster; the guardian ends it. What Ray says of busy workers goes to its log."""
        if not self._joined:
            return
        import ray

        with self._log.open("ab") as log, _errors_to(log):
            ray.shutdown()


@contextmanager
def _errors_to(file: BinaryIO) -> Iterator[None]:
    """Send what this process, compiled code included, writes to standard error there instead."""
    ours = os.dup(_STANDARD_ERROR)
    os.dup2(file.fileno(), _STANDARD_ERROR)
    try:
        yield
    finally:
        os.dup2(ours, _STANDARD_ERROR)
        os.close(ours)


def living_nodes() -> list[dict[str, Any]]:
    """What Ray tells of each node of the cluster that this process has joined."""
    ray: Any = importlib.import_module("ray")
    return [node for node in ray.nodes() if node["Alive"]]


def own_address() -> str:
    """The address of this node, as the others reach it."""
    ray: Any = importlib.import_module("ray")
    return str(ray.util.get_node_ip_address())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"
