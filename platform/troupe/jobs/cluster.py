"""Ray: a private head for one run on this machine, and workers as Ray actors that outlive their deaths."""

import gc
import importlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

from troupe.errors import TroupeError
from troupe.jobs.setting import WorkerSetting

START_SECONDS = 60.0
_STANDARD_ERROR = 2
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_GARBAGE = 10_000
"""Objects made and not yet freed when the collector looks at the newest; Python has 700."""
OBJECT_STORE_BYTES = 80 * 1024 * 1024


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
        # Each process computes on one core: numpy's threads wait for one another on busy ones.
        "OPENBLAS_NUM_THREADS": "1",
        # A tenth less memory at the same speed: batches come in many shapes, from several threads.
        "MALLOC_ARENA_MAX": "1",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    }


class LocalCluster:
    """A Ray head on 127.0.0.1 for one run."""

    def __init__(self, folder: Path) -> None:
        self._address = folder / "ray_current_cluster"
        self._log = folder / "ray.log"
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
        return True

    def alive(self) -> bool:
        """Whether the head still runs."""
        return self._head.poll() is None

    def disconnect(self) -> None:
        """Leave the cluster; the guardian ends it. What Ray says of busy workers goes to its log."""
        import ray

        with self._log.open("ab") as log, _errors_to(log):
            ray.shutdown()


class RayWorker:
    """A worker in a Ray actor. Killed, it is started again; failed, it tells why."""

    def __init__(self, path: str, role: str, slot: int) -> None:
        import ray

        self.role, self.name = role, f"{role}-{slot}"
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
        host: Any = ray.remote(_Host)
        self._actor = host.options(**options).remote(path, role, slot)
        self._run = self._actor.run.remote()

    def start_again(self) -> None:
        """Run it once more after a failure."""
        self._run = self._actor.run.remote()

    def outcome(self) -> BaseException | Literal[True] | None:
        """True once it returned, its error once it failed, None while it runs."""
        import ray

        done, _ = ray.wait([self._run], timeout=0)
        if not done:
            return None
        try:
            ray.get(self._run)
        except ray.exceptions.RayTaskError as error:
            return error.cause if isinstance(error.cause, BaseException) else error
        except ray.exceptions.RayError as error:
            return error
        return True


class _Host:
    """What runs inside the Ray actor: the plain worker class, with its output in the run's logs."""

    def __init__(self, path: str, role: str, slot: int) -> None:
        self._path, self._role, self._slot = path, role, slot

    def run(self) -> None:
        setting = WorkerSetting.from_environment(self._role, self._slot)
        logs = setting.run_folder / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{setting.name}.log").open("ab") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        module, _, name = self._path.partition(":")
        make: Callable[[WorkerSetting], Any] = getattr(importlib.import_module(module), name)
        _spare_collector()
        try:
            make(setting).run()
        except Exception:
            with suppress(OSError):  # a full disk, which the error may be about
                traceback.print_exc()  # the launcher tells one line; the log has the rest
            raise


def _spare_collector() -> None:
    """Leave out of garbage collection what is never garbage: half a million objects of libraries.

    Going through them again and again is about a tenth of the time of a small network's updates.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"
