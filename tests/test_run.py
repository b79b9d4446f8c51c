"""Whole runs on the real thing: Ray, a Redis-protocol server, gRPC, a learner."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from troupe import catalogue
from troupe.jobs.guardian import MARK, Herd, environment_of

JOB = {
    "name": "small",
    "game": {"name": "doudizhu"},
    "algorithm": {
        "name": "deep_monte_carlo",
        "batch": 640,
        "optimizer": {"name": "adam", "lr": 1e-3},
    },
    "network": {"hidden": 64, "layers": 2, "recurrent": 32},
    "actors": {"count": 2, "tables": 16, "block_steps": 160},
    "store": {"capacity": 6000},
    "checkpoint": {"every": 2},
    "evaluation": {"every": 2, "deals": 20, "against": ["random"]},
}
POLE = {
    "name": "small",
    "environment": {"name": "CartPole-v1"},
    "algorithm": {"name": "ppo", "epochs": 2},
    "schedule": "lockstep",
    "lag": 1,
    "actors": {"count": 2, "environments": 2, "rollout": 32},
    "evaluation": {"every": 1, "episodes": 4},
}
PATIENCE = 90.0


class Launched:
    """A `troupe` command that runs."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.herd: Herd | None = None
        self.output = folder / f"output-{time.monotonic_ns()}.txt"
        with self.output.open("wb") as out:
            command = [sys.executable, "-m", "troupe.cli", *arguments]
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "small-1"

    def metrics(self) -> list[dict[str, float]]:
        path = self.run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def newest(self, name: str) -> float:
        return next((m[name] for m in reversed(self.metrics()) if name in m), 0.0)

    def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.2)

    def trained(self, steps: float) -> None:
        self.until(lambda: self.newest("learner/steps_trained") >= steps)

    def family(self) -> dict[str, psutil.Process]:
        """The run's processes by name and number: those marked for it, and their descendants."""
        for process in () if self.herd else psutil.process_iter():
            environment = environment_of(process)
            if environment.get("TROUPE_RUN_FOLDER") == str(self.run) and MARK in environment:
                self.herd = Herd(environment[MARK])
                break
        alive = self.herd.look() if self.herd else ()
        return {f"{process.name()} {process.pid}": process for process in alive}

    def worker(self, name: str) -> psutil.Process:
        """The process whose output goes to that worker's log."""
        log = str(self.run / "logs" / f"{name}.log")
        for process in self.family().values():
            try:
                if os.readlink(f"/proc/{process.pid}/fd/1") == log:
                    return process
            except OSError:
                continue
        raise AssertionError(f"{name} does not run: {self.output.read_text()}")


def end(launched: Launched) -> None:
    launched.process.kill()
    launched.process.wait()
    psutil.wait_procs(launched.family().values(), timeout=15)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    started: list[Launched] = []

    place = tmp_path / "a place with spaces"
    place.mkdir()

    def start(*arguments: str) -> Launched:
        (place / "job.yaml").write_text(yaml.safe_dump(JOB))
        (place / "pole.yaml").write_text(yaml.safe_dump(POLE))
        started.append(Launched(place, *arguments))
        return started[-1]

    yield start
    for launched in started:
        end(launched)


def test_a_run_trains_to_its_limit_judges_itself_and_leaves_nothing_behind(
    launch: Callable[..., Launched],
) -> None:
    run = launch("train", "job.yaml", "stop.steps=12000")
    run.until(lambda: bool(run.family()))
    scratch = scratch_folders(run)
    assert scratch
    assert run.process.wait(timeout=PATIENCE) == 0, run.output.read_text()
    assert run.newest("learner/steps_trained") >= 12000
    assert (run.run / "curves.png").stat().st_size > 10_000
    assert "random" in run.output.read_text()
    assert not run.family()
    assert not [folder for folder in scratch if folder.exists()]

    again = launch("resume", "small-1", "stop.steps=14000")
    assert again.process.wait(timeout=PATIENCE) == 0, again.output.read_text()
    steps = [m["learner/steps_trained"] for m in run.metrics() if "learner/steps_trained" in m]
    assert steps[-1] >= 14000
    assert steps == sorted(steps)


def test_a_run_in_an_environment_trains_in_turns_and_goes_on(
    launch: Callable[..., Launched],
) -> None:
    run = launch("train", "pole.yaml", "stop.steps=4000")
    assert run.process.wait(timeout=PATIENCE) == 0, run.output.read_text()
    text = run.output.read_text()
    assert text.startswith("CartPole-v1: sound: ")
    assert "small-1 in CartPole-v1" in text
    assert "WP" not in text
    assert "troupe play" not in text
    assert run.newest("learner/steps_trained") == 4096
    assert run.newest("learner/staleness_max") == 1
    assert run.newest("actor/return/agent") > 0
    assert (run.run / "curves.png").stat().st_size > 10_000

    again = launch("resume", "small-1", "stop.steps=null")
    again.trained(5120)
    again.until(lambda: again.newest("evaluator/eval/return") > 0)
    again.process.send_signal(signal.SIGINT)
    assert again.process.wait(timeout=PATIENCE) == 0, again.output.read_text()


def test_a_run_outlives_its_workers_keeps_its_secrets_and_stops_when_told(
    launch: Callable[..., Launched],
) -> None:
    run = launch("train", "job.yaml", "--metrics-port", "0")
    run.trained(1000)
    assert_prometheus_reads_it(run)
    assert_closed_to_others(run)
    assert_no_secret_in_sight(run)
    for name in ("actor-0", "learner-0", "weights-0"):
        worker = run.worker(name)
        worker.kill()
        worker.wait()
        run.trained(run.newest("learner/steps_trained") + 6000)
        assert run.worker(name).pid != worker.pid

    scratch = scratch_folders(run)
    start = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(timeout=30) == 0, run.output.read_text()
    assert time.monotonic() - start < 10
    assert not run.family()
    assert not [folder for folder in scratch if folder.exists()]
    assert "troupe resume small-1" in run.output.read_text()
    assert "raylet" not in run.output.read_text()


def test_a_killed_launcher_leaves_no_process_behind_and_its_run_resumes(
    launch: Callable[..., Launched],
) -> None:
    run = launch("train", "job.yaml")
    run.until(lambda: any((run.run / "checkpoints").glob("step-*")))
    family, scratch = run.family(), scratch_folders(run)
    saved = run.newest("learner/checkpoint_step")
    run.process.kill()
    _, alive = psutil.wait_procs(family.values(), timeout=10)
    assert not alive
    assert not run.family()

    again = launch("resume", "small-1")
    again.until(lambda: again.newest("attempt") == 2)
    again.trained(saved + 1000)
    assert not [folder for folder in scratch if folder.exists()]
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(timeout=30) == 0, again.output.read_text()


def test_a_run_told_to_stop_while_it_starts_ends_at_once(launch: Callable[..., Launched]) -> None:
    run = launch("train", "job.yaml")
    run.until(lambda: bool(run.family()))
    scratch = scratch_folders(run)
    start = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(timeout=30) == 0, run.output.read_text()
    assert time.monotonic() - start < 10
    assert not run.family()
    assert not [folder for folder in scratch if folder.exists()]
    assert "Stopped before training began" in run.output.read_text()
    assert not any((run.run / "checkpoints").iterdir())


def scratch_folders(run: Launched) -> list[Path]:
    """The temporary folders that the run's processes were told of."""
    told = [environment_of(process).get("TROUPE_NODE_FOLDER") for process in run.family().values()]
    return [Path(folder) for folder in set(told) if folder]


def assert_prometheus_reads_it(run: Launched) -> None:
    line = run.metrics()[-1]
    assert [name for name in line if catalogue.find(name) is None] == []
    told = re.search(r"^Metrics: (\S+)$", run.output.read_text(), re.MULTILINE)
    assert told
    families = parse(urlopen(told[1], timeout=5).read().decode())
    samples = {sample.name: sample.value for family in families for sample in family.samples}
    assert samples["troupe_learner_steps_trained"] >= line["learner/steps_trained"]
    assert samples["troupe_actor_decisions_total"] >= line["actor/decisions"]
    assert samples["troupe_attempt"] == line["attempt"] == 1


def assert_closed_to_others(run: Launched) -> None:
    for process in (*run.family().values(), psutil.Process(run.process.pid)):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1"), process


def assert_no_secret_in_sight(run: Launched) -> None:
    environment = run.worker("actor-0").environ()
    secrets = [
        environment["RAY_AUTH_TOKEN"],
        environment["TROUPE_WEIGHTS_TOKEN"],
        environment["TROUPE_STORE_URL"].split(":")[2].split("@")[0],
    ]
    for process in run.family().values():
        assert not [s for s in secrets if s in " ".join(process.cmdline())]
    for path in run.run.rglob("*"):
        if path.is_file():
            assert not [s for s in secrets if s.encode() in path.read_bytes()], path
    assert not [s for s in secrets if s in run.output.read_text()]
