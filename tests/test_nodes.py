"""A run on several nodes of a real Ray cluster, which come and go."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from networks import Network
from ray_nodes import RayNodes

from troupe.jobs.node import MEMORY
from troupe.runs import RunFolder

JOB = {
    "name": "small",
    "environment": {"name": "CartPole-v1"},
    "algorithm": {"name": "ppo", "epochs": 1},
    "actors": {"count": 2, "environments": 2, "rollout": 16},
    "checkpoint": {"every": 1},
    "evaluation": {"every": 0},
    "cluster": {"learner": {"resources": {"trainer": 1}}},
}
PATIENCE = 120.0


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    """Apart in network namespaces, where store and weights need TLS; else on loopback."""
    network = Network() if Network.possible() else None
    try:
        cluster = RayNodes('--resources={"trainer": 1}', cpus=1, network=network)
        yield cluster
        cluster.close()
    finally:
        if network is not None:
            network.close()


class Launched:
    """A launcher in the cluster."""

    def __init__(self, nodes: RayNodes, folder: Path, *overrides: str) -> None:
        (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
        self.run = RunFolder(folder / "runs" / "one")
        self.output = folder / "output.txt"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [*nodes.inside, sys.executable, "-m", "troupe.cli", "train", "job.yaml", "--ray", nodes.address,
                 "--name", "one", *overrides],
                cwd=folder, env=nodes.environment, stdout=out, stderr=out,
            )  # fmt: skip

    def newest(self) -> dict[str, float]:
        lines = self.run.metrics.read_text().splitlines() if self.run.metrics.exists() else []
        return next((json.loads(text) for text in reversed(lines) if text.endswith("}")), {})

    def until(self, what: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        deadline = time.monotonic() + PATIENCE
        while not what(self.newest()):
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, f"{self.output.read_text()}\n{self.newest()}"
            time.sleep(0.2)
        return self.newest()

    def forget_what_nobody_holds(self) -> None:
        """A machine that is lost takes its memory with it."""
        for folder in self.folders():
            with (folder / ".users").open() as lock, suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)

    def folders(self) -> list[Path]:
        return [*MEMORY.glob(f"troupe-{self.run.identity}-*")]


@pytest.mark.timeout(300)
@pytest.mark.skipif(not os.access(MEMORY, os.W_OK), reason="has no memory-backed folder")
def test_a_run_goes_on_when_nodes_are_lost_and_come(nodes: RayNodes, tmp_path: Path) -> None:
    nodes.add("one", cpus=1)
    nodes.add("two", cpus=1)
    launched = Launched(nodes, tmp_path)
    try:
        seen = launched.until(lambda m: m.get("workers", 0) == 7 and m["step"] > 500)
        assert seen["weights/watchers"] == 3, "a relay of each node, and no actor"
        assert len(launched.folders()) == 3, "of the head and two others"

        nodes.lose("two")
        launched.forget_what_nobody_holds()
        left = launched.until(lambda m: m.get("workers", 7) == 5)
        launched.until(lambda m: m["step"] > left["step"] + 500)

        nodes.add("three", cpus=1)
        back = launched.until(lambda m: m.get("workers", 0) == 7)
        launched.until(lambda m: m["step"] > back["step"] + 500)
        assert back["restarts"] >= 1, "the actor of the node that was lost"

        launched.process.send_signal(signal.SIGTERM)
        assert launched.process.wait(30) == 0, launched.output.read_text()
    finally:
        launched.process.kill()
        launched.process.wait()
    assert launched.run.status().state == "stopped"
    saved = sorted(launched.run.checkpoints.glob("step-*"))[-1]
    assert int(saved.name.removeprefix("step-")) >= back["step"] + 500
    deadline = time.monotonic() + 10
    while launched.folders():
        assert time.monotonic() < deadline, "whatever was started is gone in 10 s"
        time.sleep(0.1)
