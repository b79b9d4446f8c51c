"""Judging a language model: every prompt answered once, every answer judged, and told of."""

import io
import json
import sys
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from troupe import checkpoint
from troupe.config import parse
from troupe.episodes import Array
from troupe.errors import TroupeError, UserError
from troupe.jobs.spec import Job, RewardSettings
from troupe.language.models import load_model, open_folder, own_tensors
from troupe.language.small import SmallSettings, build
from troupe.metrics import Metrics
from troupe.prompts import PromptSettings
from troupe.runs import RunFolder
from troupe_actors import commands, evaluator, text_trials
from troupe_actors.engines import Completion, EngineSettings, Request
from troupe_actors.scoring import Scored
from troupe_actors.statistics import mean_interval, share_interval
from troupe_actors.text_results import Result, interval
from troupe_actors.text_trials import Exam, TrialSettings

ECHO = "tests_answering.echo"
PROMPTS = 80


class Echo:
    """Says a prompt again, if its one weight is above the number in it; else talks to no end."""

    def __init__(self) -> None:
        self.skill = 0
        self.waiting: deque[Request] = deque()
        self.cancelled: set[int] = set()

    def load(
        self, version: int, tensors: Mapping[str, Array], bfloat16: Collection[str] = ()
    ) -> None:
        if "skill" not in tensors:
            raise TroupeError("weights: skill is missing")
        self.skill, self.version = int(tensors["skill"][0]), version

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting.extend(requests)

    def step(self) -> list[Completion]:
        # The last come first: results are told apart by their ids.
        return [self._answer(self.waiting.pop()) for _ in range(min(3, len(self.waiting)))]

    def cancel(self, ids: Collection[int]) -> None:
        self.cancelled |= set(ids)
        self.waiting.clear()

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def _answer(self, request: Request) -> Completion:
        able = int(bytes(request.prompt.tolist())) < self.skill
        stop = [*request.sampling.stop]
        said = [*request.prompt.tolist(), *stop] if able else [120] * request.sampling.max_tokens
        tokens = np.array(said, np.int32)
        version = np.full(len(tokens), self.version, np.uint32)
        finish = "stop" if able else "length"
        return Completion(request.id, tokens, tokens * np.float32(0), version, finish)  # type: ignore[arg-type]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Echo:
    made = Echo()
    module = ModuleType(ECHO)
    module.create = lambda *_: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_answering", ModuleType("tests_answering"))
    monkeypatch.setitem(sys.modules, ECHO, module)
    monkeypatch.setattr(evaluator, "ENGINE", ECHO)
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build(folder, SmallSettings(hidden=16, layers=1, heads=2, context=64), 0)
    return folder


def prompts(folder: Path, name: str = "held_out.jsonl", count: int = PROMPTS) -> PromptSettings:
    rows = [{"prompt": str(number), "answer": str(number)} for number in range(count)]
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    return PromptSettings(path=str(folder / name))


def settings(folder: Path, model: Path) -> TrialSettings:
    return TrialSettings(
        model=str(model),
        prompts=prompts(folder),
        held_out=True,
        rewards=(
            RewardSettings(name="exact", weight=2.0),
            RewardSettings(name="pattern", options={"pattern": r"\d\d"}),
        ),
        engine=EngineSettings(name=ECHO, max_length=32),
        max_tokens=8,
        temperature=0.0,
    )


def weights(skill: int) -> dict[str, Array]:
    return {"skill": np.array([skill], np.float32)}


def judged(folder: Path, model: Path, skill: int = 30) -> Result:
    exam = Exam("sort-1", settings(folder, model))
    exam.load(3, weights(skill))
    result = exam.judge()
    exam.close()
    assert result is not None
    return result


def test_every_prompt_is_answered_once_and_judged_by_all_rewards(
    tmp_path: Path, model: Path, engine: Echo
) -> None:
    result = judged(tmp_path, model)
    able = np.arange(PROMPTS) < 30
    assert (result.scored.components["exact"] == able).all()
    assert (result.scored.components["pattern"] == (able & (np.arange(PROMPTS) >= 10))).all()
    assert result.reward.mean == pytest.approx((2 * 30 + 20) / PROMPTS)
    assert (result.truncated == ~able).all()
    assert result.lengths[:11].tolist() == [2] * 10 + [3]  # the stop token is counted
    assert result.components["exact"] == share_interval(able.astype(float))
    assert not engine.pending


def test_intervals_are_those_of_shares_for_rewards_of_0_and_1_alone() -> None:
    shares = np.array([0, 1, 1, np.nan], np.float32)
    assert interval(shares) == share_interval(np.array([0.0, 1.0, 1.0]))
    assert interval(np.ones(50, np.float32)).low < 1.0
    graded = np.array([0.25, -1.0, 2.0], np.float32)
    assert interval(graded) == mean_interval(graded.astype(float))
    assert np.isnan(interval(np.full(3, np.nan, np.float32)).mean)


def test_a_result_is_for_people_programs_and_metrics(
    tmp_path: Path, model: Path, engine: Echo
) -> None:
    result = judged(tmp_path, model)
    text = shown(result)
    for said in (
        "sort-1 on held_out.jsonl",
        "reward      1.000",
        "  exact     0.375   0.276 to 0.485   0.000   1.000",
        "tokens        6.0                        2       8",
        "cut off     62.5%",
        "80 prompts\n",
        "greedy, ",
    ):
        assert said in text
    assert "failed" not in text
    data = json.loads(json.dumps(result.data(), allow_nan=False))
    assert data["rewards"]["exact"]["mean"] == 0.375
    assert data["reward"]["low"] < data["reward"]["mean"] < data["reward"]["high"]
    assert (data["completions"], data["truncated"], data["failed"]) == (80, 0.625, 0)
    gauges = result.gauges()
    assert gauges["reward/exact"] == 0.375
    assert gauges["reward_low"] < gauges["reward"] < gauges["reward_high"]
    assert gauges["truncated"] == 0.625


def test_completions_that_a_reward_failed_on_are_left_out_of_means_and_told(
    tmp_path: Path, model: Path, engine: Echo
) -> None:
    result = judged(tmp_path, model)
    exact = np.array([np.nan, np.nan, 1, 0], np.float32)
    failing = Scored(exact, {"exact": exact, "other": exact * np.nan}, ("exact: no", "", "", ""))
    some = replace(result, scored=failing, lengths=np.arange(4), held_out=False, temperature=0.7)
    assert some.reward.mean == 0.5
    text = shown(some)
    for said in ("failed     50.0%", "  other   failed", "exact: no", "temperature 0.7, seed 0"):
        assert said in text
    assert "4 prompts it was trained on" in text
    assert "exact " not in shown(replace(result, scored=single(result.scored)))
    data = json.loads(json.dumps(some.data(), allow_nan=False))
    assert (data["failed"], data["reasons"], data["rewards"]["other"]["mean"]) == (
        2,
        ["exact: no"],
        None,
    )
    assert "reward/other" not in some.gauges()
    assert some.gauges()["reward_failed"] == 0.5


def single(scored: Scored) -> Scored:
    exact = scored.components["exact"]
    return Scored(exact, {"exact": exact}, scored.reasons)


def shown(result: Result) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(result.table())
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def test_a_trial_that_is_told_to_stop_leaves_nothing_behind(
    tmp_path: Path, model: Path, engine: Echo
) -> None:
    exam = Exam("sort-1", settings(tmp_path, model))
    exam.load(1, weights(80))
    looks = iter([False, False, True])
    assert exam.judge(stopped=lambda: next(looks)) is None
    assert engine.cancelled == set(range(PROMPTS - 6))
    looks = iter([False] * 28 + [True])
    assert exam.judge(stopped=lambda: next(looks)) is None
    assert exam.judge() is not None


def test_what_is_asked_for_goes_over_the_job(tmp_path: Path, model: Path) -> None:
    usual = replace(settings(tmp_path, model), held_out=False)
    assert text_trials.asked_for(usual, None, None, None) == usual
    other = text_trials.asked_for(usual, tmp_path / "other.jsonl", 5, 0.5)
    assert other.prompts.path.endswith("other.jsonl")
    assert (other.prompts.limit, other.temperature, other.held_out) == (5, 0.5, True)
    for wrong in ((0, None), (None, -0.1), (None, float("inf"))):
        with pytest.raises(UserError, match=r"--limit: 0|--temperature: (-0.1|inf)"):
            text_trials.asked_for(usual, None, *wrong)


def test_a_prompt_without_room_for_an_answer_is_told_before_anything_runs(
    tmp_path: Path, model: Path, engine: Echo
) -> None:
    crowded = replace(settings(tmp_path, model), engine=EngineSettings(name=ECHO, max_length=2))
    with pytest.raises(UserError, match="prompt 10: 2 tokens"):
        Exam("sort-1", crowded)


def test_a_model_answers_through_its_own_engine(tmp_path: Path, model: Path) -> None:
    real = replace(
        settings(tmp_path, model), engine=EngineSettings(slots=16, max_length=32), temperature=1.0
    )
    exam = Exam("sort-1", real)
    tensors = {
        name: tensor.numpy() for name, tensor in own_tensors(load_model(open_folder(model))).items()
    }
    exam.load(1, tensors)
    first, again, other = exam.judge(1), exam.judge(1), exam.judge(2)
    exam.close()
    assert first is not None
    assert again is not None
    assert other is not None
    assert len(first.lengths) == PROMPTS
    assert (first.lengths == again.lengths).all()
    assert (first.lengths != other.lengths).any()


# With a run.


def job(base: Path, model: Path, evaluation: Mapping[str, object]) -> Job:
    return parse(
        Job,
        {
            "name": "sort",
            "text": {
                "prompts": {"path": prompts(base, "prompts.jsonl", 12).path},
                "rewards": [{"name": "exact"}],
                "max_tokens": 4,
                "engine": {"name": ECHO, "max_length": 32},
            },
            "algorithm": {"name": "grpo"},
            "network": {"kind": "language", "language": {"model": str(model)}},
            "evaluation": evaluation,
        },
    )


def make_run(base: Path, model: Path, name: str = "skill") -> Path:
    folder = RunFolder.create(base, job(base, model, {}))
    held = {"agent": {f"model.{name}": np.array([6], np.float32), "value.bias": np.zeros(1)}}
    checkpoint.save(
        folder.path, checkpoint.Checkpoint(folder.name, "text", "grpo", 10, {"agent": 1}, held)
    )
    return folder.path


@pytest.mark.usefixtures("engine")
def test_the_eval_command_judges_a_language_model(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, model)
    assert commands.eval_command(run, as_json=True) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["agent"], result["prompts"], result["held_out"]) == (
        "sort-1",
        "prompts.jsonl",
        False,
    )
    assert (result["completions"], result["reward"]["mean"]) == (12, 0.5)
    file = prompts(tmp_path).path
    commands.eval_command(run, prompts=Path(file), limit=8, temperature=0.5, as_json=True)
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["completions"], result["reward"]["mean"]) == (8, 0.75)
    assert (result["held_out"], result["temperature"]) == (True, 0.5)
    with pytest.raises(UserError, match="--episodes: does not go with"):
        commands.eval_command(run, episodes=5)
    commands.eval_command(run)
    assert "12 prompts it was trained on" in capsys.readouterr().out


@pytest.mark.usefixtures("engine")
def test_a_checkpoint_of_another_model_is_named(tmp_path: Path, model: Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match=r"step-0+10: agent: weights: skill is"):
        commands.eval_command(make_run(tmp_path, model, "talent"))


@pytest.mark.usefixtures("engine")
def test_the_evaluator_reports_rewards(tmp_path: Path, model: Path) -> None:
    fetched = SimpleNamespace(version=7, tensors=weights(20), bfloat16=frozenset())
    evaluation = {"prompts": {"path": prompts(tmp_path).path, "limit": 40}}
    ends = SimpleNamespace(
        job=job(tmp_path, model, evaluation),
        metrics=Metrics(),
        reporter=SimpleNamespace(stop=threading.Event()),
        board=SimpleNamespace(snapshots=lambda: {"learner-0": {"steps_trained": 640.0}}),
        weights=SimpleNamespace(latest=lambda _: 7, fetch=lambda _: fetched),
    )
    judge = evaluator.Judge(ends)  # type: ignore[arg-type]
    assert judge.judge()
    told = ends.metrics.snapshot()
    assert (told["eval/step"], told["version/agent"], told["eval/reward"]) == (640, 7, 0.5)
    assert told["eval/reward_low"] < 0.5 < told["eval/reward_high"]
    assert (told["eval/reward/exact"], told["eval/truncated"]) == (0.5, 0.5)
    ends.reporter.stop.set()
    assert judge.judge()
    assert ends.metrics.snapshot()["evaluations"] == 1
