"""What a node of a cluster keeps for a run, and where a run's workers go."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from troupe.errors import UserError
from troupe.jobs import joined, places
from troupe.jobs.spec import ClusterSettings, Job, LearnerSettings, PlaceSettings
from troupe.jobs.tails import Tails

HOLD = "import sys, time; from troupe.jobs import node; print(node.hold(sys.argv[1]), flush=True); time.sleep(60)"
CPU_NODE = {"CPU": 8.0, "memory": 1e9}
GPU_NODE = {"CPU": 4.0, "GPU": 2.0}


def job(ranks: int = 1, device: str = "auto", **cluster: PlaceSettings) -> Job:
    return Job(
        name="small",
        algorithm={"name": "x"},
        learner=LearnerSettings(count=ranks, device=device),
        cluster=ClusterSettings(**cluster),
    )


@contextmanager
def holding(name: str) -> Iterator[Path]:
    command = [sys.executable, "-c", HOLD, name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        with process.stdout:
            yield Path(process.stdout.readline().strip())
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_nodes_folder_is_gone_when_the_last_process_that_holds_it_is_killed(
    tmp_path: Path,
) -> None:
    name = f"troupe-test-{tmp_path.name}-{time.monotonic_ns()}"
    with holding(name) as first:
        with holding(name) as second:
            assert first == second
            assert first.stat().st_mode & 0o777 == 0o700
        time.sleep(1.5)
        assert first.is_dir(), "one of two holds it still"
    deadline = time.monotonic() + 10
    while first.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_learners_go_where_gpus_are_and_actors_do_not_ask_for_any() -> None:
    actor, learner = places.demands(job(ranks=2), [CPU_NODE, GPU_NODE])
    assert actor == {"CPU": 1.0}
    assert learner == {"CPU": 1.0, "GPU": 1.0}
    places.check([CPU_NODE, GPU_NODE], actor, learner)


def test_without_enough_gpus_a_learner_of_its_own_choice_takes_the_cpu() -> None:
    assert places.demands(job(ranks=3), [CPU_NODE, GPU_NODE])[1] == {"CPU": 1.0}
    assert places.demands(job(device="cpu"), [GPU_NODE])[1] == {"CPU": 1.0}


def test_what_no_node_has_is_said_with_the_most_there_is() -> None:
    asked = job(device="cuda", actor=PlaceSettings(cpus=16, resources={"spot": 0.1}))
    actor, learner = places.demands(asked, [CPU_NODE])
    with pytest.raises(UserError, match=r"cluster\.learner: asks for CPU 1, GPU 1.*CPU 8, GPU 0"):
        places.check([CPU_NODE], actor, learner)
    with pytest.raises(UserError, match=r"cluster\.actor: asks for CPU 16, spot 0\.1"):
        places.check([CPU_NODE, GPU_NODE], actor, learner)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "no Ray cluster answers there"),
        ("ray://head:10001", "troupe submit JOB --to"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_said_at_once(address: str, says: str) -> None:
    with pytest.raises(UserError, match=says), joined._joined(address):
        pass


def test_what_keeps_ray_from_letting_us_in_comes_with_the_remedy() -> None:
    mismatch = "Version mismatch: The cluster was started with:\n  Ray: 2.9\n  Python: 3.10"
    assert joined._explain(mismatch) == (
        "Version mismatch: The cluster was started with: Ray: 2.9 Python: 3.10; use the cluster's own "
        "versions here, such as its image"
    )
    assert "RAY_AUTH_TOKEN_PATH" in joined._explain("Invalid or missing authentication token")


def test_what_workers_log_is_told_in_whole_lines_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troupe.jobs.tails.EVERY", 0.0)
    (tmp_path / "actor-0.log").write_text("of an earlier attempt\n")
    tails = Tails(tmp_path)
    with (tmp_path / "actor-0.log").open("a") as log:
        log.write("one\ntwo\nthr")
    (tmp_path / "weights-0.log").write_text("up\n")
    assert [*tails.poll()] == [("actor-0", "one"), ("actor-0", "two"), ("weights-0", "up")]
    with (tmp_path / "actor-0.log").open("a") as log:
        log.write("ee\n")
    assert [*tails.poll()] == [("actor-0", "three")]
    assert not [*tails.poll()]
