"""Watching over a run: when it ends, and whether that went well."""

import errno
import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import pytest

from troupe.checkpoint import CheckpointError
from troupe.jobs import crew, launch, workers
from troupe.jobs.crew import Crew, RunError
from troupe.jobs.setting import (
    NODE_FOLDER,
    RUN,
    RUN_FOLDER,
    STORE_URL,
    WEIGHTS_TOKEN,
    WorkerSetting,
)
from troupe.jobs.spec import GameSettings, Job
from troupe.live import SilentView
from troupe.monitor import Monitor
from troupe.store import StoreError
from troupe.store.board import Board
from troupe_actors.environments import EnvironmentFaultError

JOB = Job(name="small", game=GameSettings(name="doudizhu"), algorithm={"name": "x"})
Outcome = BaseException | Literal[True] | None


@dataclass
class Worker:
    """A worker that fares as the test says."""

    role: str
    outcomes: dict[str, Outcome]
    ended: bool = False

    def outcome(self) -> Outcome:
        return self.outcomes.get(self.role)

    def start_again(self) -> None:
        self.outcomes.pop(self.role)

    def end(self) -> None:
        self.ended = True


@dataclass
class Ground:
    """Where workers fare as the test says."""

    outcomes: dict[str, Outcome]
    store_url: str = ""
    stop_seconds: float = 0.0
    numbers: list[int] = field(default_factory=list)
    started: dict[str, Worker] = field(default_factory=dict)

    def connect(self, stop: threading.Event) -> bool:
        return True

    def parts(self) -> dict[str, Callable[[], bool]]:
        return {}

    def worker(self, role: str, slot: int) -> Worker:
        return self.started.setdefault(f"{role}-{slot}", Worker(role, self.outcomes))

    def nodes(self) -> list[int]:
        return self.numbers


@dataclass
class Frame:
    training: bool


@dataclass
class Surroundings:
    """What a run reports to."""

    training: bool = True
    said: list[str] = field(default_factory=list)

    def poll(self) -> Frame:
        return Frame(self.training)

    def request_stop(self, reason: str) -> None:
        self.said.append(reason)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    monkeypatch.setattr(launch, "TICK", 0.0)

    def run(
        around: Surroundings, outcomes: dict[str, Outcome], *, stopped: bool, patience: float = 0.0
    ) -> bool:
        stop = threading.Event()
        if stopped:
            stop.set()
        view = SilentView()
        hands = Crew(JOB, view, Ground(outcomes), lambda: None)
        board, monitor = cast(Board, around), cast(Monitor, around)
        return launch._watch(hands, board, monitor, [], view, stop, patience)

    return run


def test_a_run_ends_with_its_learner(watch: Callable[..., bool]) -> None:
    around = Surroundings()
    assert watch(around, {"learner": True}, stopped=False)
    assert around.said == ["the learner is done"]


def test_told_to_stop_before_training_it_ends_at_once(watch: Callable[..., bool]) -> None:
    assert not watch(Surroundings(training=False), {}, stopped=True)


def test_a_last_save_that_fails_is_an_error_and_not_tried_from_an_older_checkpoint(
    watch: Callable[..., bool],
) -> None:
    around = Surroundings()

    class FullDisk(dict[str, Outcome]):
        def get(self, role: str, default: Outcome = None) -> Outcome:  # type: ignore[override]
            full = around.said and role == "learner"
            return CheckpointError("step-9: not saved, the disk is full") if full else default

    with pytest.raises(RunError, match="learner-0 failed: step-9: not saved") as caught:
        watch(around, FullDisk(), stopped=True, patience=60.0)
    assert caught.value.exit_code == 1


def test_a_learner_that_does_not_save_in_time_is_an_error(watch: Callable[..., bool]) -> None:
    with pytest.raises(RunError, match="did not save within"):
        watch(Surroundings(), {}, stopped=True)


def test_a_worker_that_failed_is_started_again_once_the_store_knows_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes: dict[str, Outcome] = {"evaluator": StoreError("the store does not know the run")}
    announced: list[bool] = []
    hands = Crew(JOB, SilentView(), Ground(outcomes), lambda: announced.append(True))
    hands.look_after()
    monkeypatch.setattr(crew.time, "monotonic", lambda: 1e12)
    hands.look_after()
    assert announced == [True]
    assert not outcomes


def test_what_a_worker_would_only_meet_again_ends_the_run() -> None:
    outcomes: dict[str, Outcome] = {
        "actor": EnvironmentFaultError("environment 'World', slot 0: NaN")
    }
    hands = Crew(JOB, SilentView(), Ground(outcomes), lambda: None)
    with pytest.raises(
        EnvironmentFaultError, match=r"^environment 'World', slot 0: NaN$"
    ) as caught:
        hands.look_after()
    assert caught.value.exit_code == 1
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value), "Ray brings it here"


def test_actors_and_relays_come_and_go() -> None:
    ground = Ground({})
    hands = Crew(JOB, SilentView(), ground, lambda: None)
    hands.resize(4)
    ground.numbers = [0, 2]
    hands.look_after()
    assert {name for name in ground.started if name.startswith(("actor", "relay"))} == {
        "actor-0", "actor-1", "actor-2", "actor-3", "relay-0", "relay-2",
    }  # fmt: skip
    hands.resize(1)
    ground.numbers = [2]
    hands.look_after()
    ended = {name for name, worker in ground.started.items() if worker.ended}
    assert ended == {"actor-1", "actor-2", "actor-3", "relay-0"}


class Unsaved:
    """A worker whose disk is full."""

    def __init__(self, setting: WorkerSetting) -> None:
        pass

    def run(self) -> None:
        raise CheckpointError("step-9: not saved, the disk is full")


def test_what_made_a_worker_fail_is_told_where_its_log_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in (RUN, STORE_URL, WEIGHTS_TOKEN, NODE_FOLDER):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv(RUN_FOLDER, str(tmp_path))
    monkeypatch.setattr(workers.os, "dup2", lambda old, new: new)
    monkeypatch.setattr(workers.traceback, "print_exc", full)
    monkeypatch.setattr(workers.importlib, "import_module", lambda name: sys.modules[__name__])
    with pytest.raises(CheckpointError, match="step-9: not saved"):
        workers._Host("here:Unsaved", "learner", 0, {}).run()
