"""Judging a policy in an environment: whole episodes, each of them counted once."""

import io
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces as gym
from rich.console import Console

from troupe import checkpoint
from troupe.config import parse
from troupe.episodes import Array
from troupe.errors import TroupeError, UserError
from troupe.jobs.spec import Job
from troupe.metrics import Metrics
from troupe.policies import Choices, Decisions
from troupe.runs import RunFolder
from troupe_actors import commands, evaluator, trials

NAME = "troupe-tests/Corridor-v0"
KIND = "tests_kinds.stride"


class Corridor(gymnasium.Env[Array, int]):
    """Walks as far as action 1 is chosen; an episode's goal is drawn from its seed."""

    observation_space = gym.Box(0, 100, (1,), np.float32)
    action_space = gym.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: Any = None
    ) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.goal, self.at, self.steps = int(self.np_random.integers(2, 30)), 0, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.at, self.steps = self.at + int(action), self.steps + 1
        seen = np.array([self.at], np.float32)
        return seen, float(action), self.at >= self.goal, self.steps >= 50, {}


class Stride:
    """Does what its one weight says; counts its steps within an episode in a recurrent state."""

    def __init__(self) -> None:
        self.action: int | None = None

    def act(
        self, decisions: Decisions, random: np.random.Generator, exploration: float = 0.0
    ) -> Choices:
        assert self.action is not None
        count = len(decisions.observation["observation"])
        step = decisions.state["step"]
        if self.action:
            assert (step == decisions.observation["observation"]).all()
        none = np.zeros(count, np.int64)
        action = np.full(count, self.action)
        return Choices(action, none.astype(np.float32), none, {"step": step + 1})

    def initial(self, count: int) -> dict[str, Array]:
        return {"step": np.zeros((count, 1), np.float32)}

    def load(self, tensors: Mapping[str, Array]) -> None:
        if "action" not in tensors:
            raise TroupeError("weights lack 'action'")
        self.action = int(tensors["action"][0])


@pytest.fixture(autouse=True)
def corridor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gymnasium.register(NAME, entry_point=Corridor)
    kind = ModuleType(KIND)
    kind.create_acting = lambda *_: Stride()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_kinds", ModuleType("tests_kinds"))
    monkeypatch.setitem(sys.modules, KIND, kind)
    yield
    del gymnasium.registry[NAME]


def job(**more: object) -> Job:
    data = {
        "name": "walk",
        "environment": {"name": NAME},
        "algorithm": {"name": "any"},
        "network": {"kind": KIND},
    }
    return parse(Job, {**data, **more})


def make_run(base: Path, action: int = 1) -> Path:
    folder = RunFolder.create(base, job())
    weights = {"agent": {"action": np.array([action], np.float32)}}
    state = checkpoint.Checkpoint(folder.name, NAME, "any", 10, {"agent": 1}, weights)
    checkpoint.save(folder.path, state)
    return folder.path


def test_every_environment_plays_its_share_so_that_short_episodes_do_not_count_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    result = trials.evaluate_run(run, 100)
    assert len(result.returns) == len(result.lengths) == 100
    assert (result.returns == result.lengths).all()
    assert result.interval.low < 15.5 < result.interval.high
    again = trials.evaluate_run(run, 100)
    assert (again.returns == result.returns).all()
    assert (trials.evaluate_run(run, 100, seed=1).returns != result.returns).any()


def test_an_episode_ends_at_its_time_limit(tmp_path: Path) -> None:
    result = trials.evaluate_run(make_run(tmp_path, action=0), 3)
    assert result.returns.tolist() == [0.0] * 3
    assert result.lengths.tolist() == [50] * 3


def test_a_result_is_for_people_and_for_programs(tmp_path: Path) -> None:
    result = trials.evaluate_run(make_run(tmp_path), 20)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(result.table())
    text = console.export_text()
    assert f"walk-1 in {NAME}" in text
    assert "20 episodes, seed 0" in text
    assert "WP" not in text
    data = json.loads(json.dumps(result.data(), allow_nan=False))
    assert data["return"]["low"] < data["return"]["mean"] < data["return"]["high"]
    assert data["return"]["min"] == result.returns.min()
    assert data["length"]["max"] == result.lengths.max()
    assert data["return"]["standard_error"] == pytest.approx(result.returns.std(ddof=1) / 20**0.5)


def test_a_single_episode_has_no_interval(tmp_path: Path) -> None:
    data = trials.evaluate_run(make_run(tmp_path), 1).data()
    assert json.loads(json.dumps(data, allow_nan=False))["return"]["low"] is None


def test_the_eval_command_judges_an_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    assert commands.eval_command(run, episodes=5, seed=3, as_json=True) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["episodes"], result["seed"], result["agent"]) == (5, 3, "walk-1")
    with pytest.raises(UserError, match="--against: does not go with troupe-tests/Corridor-v0"):
        commands.eval_command(run, against=["random"])
    with pytest.raises(UserError, match="--episodes: 0"):
        commands.eval_command(run, episodes=0)
    with pytest.raises(UserError, match="is no game"):
        commands.play_command(run, "", None, None)


def test_a_checkpoint_of_another_policy_is_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, job())
    weights = {"agent": {"other": np.zeros(1, np.float32)}}
    state = checkpoint.Checkpoint(folder.name, NAME, "any", 10, {"agent": 1}, weights)
    checkpoint.save(folder.path, state)
    with pytest.raises(checkpoint.CheckpointError, match=r"step-0+10: agent: .*was job.yaml"):
        trials.evaluate_run(folder.path, 1)


def test_the_evaluator_reports_returns() -> None:
    fetched = SimpleNamespace(version=7, tensors={"action": np.ones(1, np.float32)})
    ends = SimpleNamespace(
        job=job(evaluation={"episodes": 6}),
        metrics=Metrics(),
        reporter=SimpleNamespace(stop=threading.Event()),
        board=SimpleNamespace(snapshots=lambda: {"learner-0": {"steps_trained": 640.0}}),
        weights=SimpleNamespace(latest=lambda _: 7, fetch=lambda _: fetched),
    )
    judge = evaluator.Judge(ends)  # type: ignore[arg-type]
    assert judge.judge()
    shown = ends.metrics.snapshot()
    assert (shown["eval/step"], shown["version/agent"]) == (640, 7)
    assert shown["eval/return_low"] < shown["eval/return"] < shown["eval/return_high"]
    assert shown["eval/length"] == shown["eval/return"]
    ends.reporter.stop.set()
    assert judge.judge()
    assert ends.metrics.snapshot()["evaluations"] == 1
