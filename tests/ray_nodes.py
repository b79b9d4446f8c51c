"""A Ray cluster of several nodes on this machine: each has processes, folders and ports of its own."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from networks import Network

from troupe.jobs.guardian import environment_of

LOOPBACK = "127.0.1"
"""Ray takes 127.0.0.1 for a mistake, but not its neighbours, which are as closed to others."""
PATIENCE = 120.0
MARK = "TROUPE_TEST_NODE"
ROOT = Path(__file__).parent.parent


class RayNodes:
    """A head, and workers that come and go."""

    def __init__(
        self, *head: str, cpus: int, dashboard: bool = False, network: Network | None = None
    ) -> None:
        """`head`: what else `ray start` is told there; `network`: nodes have it between them."""
        self.subnet = LOOPBACK if network is None else "10.77.0"
        self._network = network
        self.inside: list[str] = []
        """The beginning of commands that run on the head's host."""
        # Sockets have paths of at most a hundred letters or so.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.token = secrets.token_hex(16)
        self.port, self.http_port = free_port(), free_port()
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": ":".join(str(ROOT / part) for part in ("platform", "actors", "learners")),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_enable_metrics_collection": "0",
            "RAY_worker_niceness": "0",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "120",
            "RAY_health_check_initial_delay_ms": "1000",
        }
        self._hosts: list[str] = []
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        shown = f"--include-dashboard={str(dashboard).lower()}"
        try:
            self.start(
                "head", cpus, *head, "--head", f"--port={self.port}", shown, f"--dashboard-port={self.http_port}",
                f"--dashboard-host={self.host}", f"--ray-client-server-port={free_port()}", "--no-monitor",
            )  # fmt: skip
            self._until_it_answers()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def host(self) -> str:
        return f"{self.subnet}.1"

    @property
    def http(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    def add(self, name: str, cpus: int) -> None:
        self.start(name, cpus, f"--address={self.address}")

    def start(self, name: str, cpus: int, *arguments: str) -> None:
        host = f"{self.subnet}.{len(self._hosts) + 1}"
        self._hosts.append(host)
        inside = [] if self._network is None else self._network.plug(host)
        self.inside = self.inside or inside
        ray = Path(sys.executable).with_name("ray")
        log = (self.folder / f"{name}.log").open("wb")
        self.nodes[name] = subprocess.Popen(
            [
                *inside,
                str(ray), "start", "--block", f"--node-ip-address={host}", f"--num-cpus={cpus}",
                f"--object-store-memory={80 * 2**20}", f"--dashboard-agent-listen-port={free_port()}", "--include-log-monitor=false",
                f"--temp-dir={self.folder}/{name}", *arguments,
            ],
            env={**self.environment, MARK: self._mark(name)}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        log.close()

    def processes(self, name: str) -> list[psutil.Process]:
        """A node's processes, and all that came of them: one that gives itself a title loses its mark."""
        marked = [
            one
            for one in psutil.process_iter()
            if environment_of(one).get(MARK) == self._mark(name)
        ]
        found = set(marked)
        for process in marked:
            with suppress(psutil.NoSuchProcess):
                found.update(process.children(recursive=True))
        return [*found]

    def _mark(self, name: str) -> str:
        return f"{self.token}-{name}"

    def lose(self, name: str) -> None:
        """A node is gone at once, with all that ran on it."""
        lost = self.processes(name)
        for process in lost:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(lost, timeout=10)
        self.nodes.pop(name).wait()

    def close(self) -> None:
        for name in [*self.nodes][::-1]:
            self.lose(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.nodes["head"].poll() is None, (self.folder / "head.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "head.log").read_text()
            if "Ray runtime started" in (self.folder / "head.log").read_text():
                return
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((f"{LOOPBACK}.1", 0))
        return int(probe.getsockname()[1])
