import io
import json
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from troupe import checkpoint, policies
from troupe.config import parse
from troupe.errors import UserError
from troupe.jobs.spec import GameSettings, Job
from troupe.metrics import Metrics
from troupe.runs import RunFolder
from troupe.weights.errors import MissingError, UnreachableError
from troupe_actors import agents, arena, commands, deals, evaluator, games
from troupe_actors.agents import Position, policy
from troupe_actors.agents.doudizhu_rule import RuleAgent
from troupe_actors.agents.random import RandomAgent

GAME = games.load("doudizhu", {})


class _Witness:
    """Plays the first legal move and remembers which seats it was asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seats: list[int] = []
        self.largest = 0

    def act(self, position: Position, random: np.random.Generator) -> NDArray[np.int64]:
        self.seats.extend(position.seat.tolist())
        self.largest = max(self.largest, len(position.seat))
        return np.zeros(len(position.seat), np.int64)

    def remarks(self) -> Mapping[str, int]:
        return {"times asked": len(self.seats), "never": 0}


def job_of(game: str) -> Job:
    return Job(name="small", game=GameSettings(name=game), algorithm={"name": "any"})


def test_everyone_gets_the_same_validation_deals() -> None:
    dealt = deals.generate(GAME, 100, 0)
    assert dealt.hash == "f735b2f8636e0b234df1d4ba29481021cd1661785d6ce17412c43cacf92aca22"
    assert (deals.generate(GAME, 30, 0).hands == dealt.hands[:30]).all()
    assert deals.generate(GAME, 100, 1).hash != dealt.hash


def test_a_deal_file_says_what_was_dealt(tmp_path: Path) -> None:
    dealt = deals.generate(GAME, 20, 3)
    file = tmp_path / "deals.txt"
    with file.open("w") as out:
        deals.write(GAME, dealt, out)
    held = deals.read(GAME, file)
    assert held.hash == dealt.hash
    assert (held.hands == dealt.hands).all()
    assert file.read_text().splitlines()[0] == "# doudizhu: landlord landlord_down landlord_up"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no deals in it"),
        ("# nothing but a remark\n", "no deals in it"),
        ("345 678\n", "line 1: 2 hands; a deal has one for each of landlord, "),
        ("\n345 678 9X\n", "line 2: .*'X' is not a card"),
        ("345 678 9TJ\n", "line 1: .*20"),
    ],
)
def test_a_bad_deal_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "deals.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        deals.read(GAME, file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_deal_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a deal file"):
        deals.read(GAME, tmp_path / "none")


def test_each_agent_plays_every_seat_and_many_tables_at_once() -> None:
    dealt = deals.generate(GAME, 50, 0)
    one, two = _Witness("one"), _Witness("two")
    result = arena.judge(GAME, dealt, one, two)
    assert result is not None
    assert set(one.seats) == set(two.seats) == {0, 1, 2}
    assert one.largest >= 50
    assert result.remarks == {
        "one: times asked": len(one.seats),
        "two: times asked": len(two.seats),
    }


def test_an_agent_is_exactly_as_good_as_itself() -> None:
    result = arena.judge(GAME, deals.generate(GAME, 300, 0), RuleAgent(), RuleAgent())
    assert result is not None
    assert result.overall.wp == (0.5, 0.5, 0.5)
    assert result.seat_correlation == pytest.approx(-1.0)
    landlord, peasants = result.sides.values()
    assert landlord.wp.mean == pytest.approx(1 - peasants.wp.mean)
    assert landlord.adp.mean == pytest.approx(-peasants.adp.mean)


def test_sides_are_told_apart() -> None:
    """The stronger agent wins on both sides; each side's figures are its own."""
    random = np.random.default_rng(0)
    hands = deals.generate(GAME, 80, 0).hands
    payoff = arena.play_deals(GAME, hands, (RuleAgent(), RandomAgent()), random)
    assert payoff is not None
    assert payoff.shape == (80, 2, 3)
    assert (payoff[:, :, 1] == payoff[:, :, 2]).all()
    assert (payoff[:, :, 0] == -payoff[:, :, 1]).all()
    assert (payoff[:, 0, 0] > 0).mean() > 0.8
    assert (payoff[:, 1, 1] > 0).mean() > 0.8


def test_deals_beyond_one_batch_are_all_played(monkeypatch: pytest.MonkeyPatch) -> None:
    dealt = deals.generate(GAME, 50, 0)
    whole = arena.judge(GAME, dealt, RuleAgent(), RuleAgent())
    monkeypatch.setattr(arena, "DEALS_AT_ONCE", 16)
    parts = arena.judge(GAME, dealt, RuleAgent(), RuleAgent())
    assert whole is not None
    assert parts is not None
    assert parts.sides == whole.sides


def test_a_seed_repeats_a_match() -> None:
    dealt = deals.generate(GAME, 60, 0)
    results = [arena.judge(GAME, dealt, RandomAgent(), RandomAgent(), seed) for seed in (1, 1, 2)]
    first, again, other = (result.overall for result in results if result)
    assert first == again
    assert first != other


def test_judging_stops_between_moves() -> None:
    asked = iter([False, False, True])
    agent = _Witness("one")
    dealt = deals.generate(GAME, 10, 0)
    assert arena.judge(GAME, dealt, agent, agent, stopped=lambda: next(asked)) is None
    assert next(asked, None) is None


def test_a_result_is_for_people_and_for_programs() -> None:
    result = arena.judge(GAME, deals.generate(GAME, 40, 0), RuleAgent(), RandomAgent())
    assert result is not None
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(result.table())
    text = console.export_text()
    assert "rule against random" in text
    assert "40 deals, each played in both seats" in text
    assert "seat correlation" in text
    assert result.hash[:16] in text
    assert "…" not in text
    data = json.loads(json.dumps(result.data(), allow_nan=False))
    assert set(data["sides"]) == {"landlord", "landlord_down + landlord_up"}
    assert data["overall"]["wp"]["low"] <= data["overall"]["wp"]["mean"]


def make_run(base: Path) -> Path:
    """A run whose policies have fresh random weights."""
    data = {
        "name": "tiny",
        "game": {"name": "doudizhu"},
        "algorithm": {"name": "deep_monte_carlo"},
        "network": {"hidden": 16, "layers": 1, "recurrent": 8},
        "evaluation": {"every": 60, "deals": 8, "against": ["random", "rule"]},
    }
    folder = RunFolder.create(base, parse(Job, data))
    weights = random_weights(folder.job())
    state = checkpoint.Checkpoint(
        run=folder.name,
        game="doudizhu",
        algorithm="deep_monte_carlo",
        step=10,
        updates=dict.fromkeys(weights, 1),
        weights=weights,
    )
    checkpoint.save(folder.path, state)
    return folder.path


def random_weights(job: Job) -> dict[str, dict[str, NDArray[np.float32]]]:
    torch.manual_seed(0)
    networks = {
        name: policies.create(GAME.spaces(seat), job.network)
        for seat, name in enumerate(GAME.seats)
    }
    return {
        name: {key: tensor.numpy() for key, tensor in network.state_dict().items()}
        for name, network in networks.items()
    }


def test_a_runs_policies_play_their_best_moves(tmp_path: Path) -> None:
    agent = policy.load(make_run(tmp_path), GAME)
    turn = GAME.tables(12, 4).turn()
    together = agent.act(agents.select(turn, np.arange(12)), np.random.default_rng(0))
    for t in range(12):
        position = agents.select(turn, np.array([t]))
        values = agent.values(position)
        assert values.shape == position.moves.shape
        assert values[together[t]] == pytest.approx(values.max(), abs=1e-5)


def test_a_run_is_an_agent_by_its_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    agents.check(str(run), job_of("doudizhu"), "--against")
    assert agents.load(str(run), GAME).name == run.name
    name = checkpoint.newest(run).name
    assert policy.load(run, GAME, checkpoint=name).name == run.name
    with pytest.raises(UserError, match=f"has no 'step-7'; it has {name}"):
        policy.load(run, GAME, checkpoint="step-7")


def test_a_run_of_another_game_is_refused(tmp_path: Path) -> None:
    other = SimpleNamespace(name="leduc", seats=("one", "two"))
    with pytest.raises(UserError, match="plays doudizhu, not leduc"):
        policy.load(make_run(tmp_path), other)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"against: the run .* plays doudizhu, not leduc"):
        agents.check(str(tmp_path / "tiny-1"), job_of("leduc"), "evaluation.against")


def test_a_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    job = run / "job.yaml"
    job.write_text(job.read_text().replace("hidden: 16", "hidden: 32"))
    with pytest.raises(checkpoint.CheckpointError, match=r"step-0+10: landlord: .*was job.yaml"):
        policy.load(run, GAME)


def test_a_run_without_a_checkpoint_is_no_opponent(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    shutil.rmtree(checkpoint.newest(run))
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint here yet"):
        agents.check(str(run), job_of("doudizhu"), "--against")


def test_the_eval_command_prints_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    against = ["random", str(run)]
    status = commands.eval_command(run, against=against, deals=5, as_json=True)
    assert status == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["against"] for result in results] == ["random", run.name]
    assert results[0]["deals"] == 5
    assert results[1]["overall"]["wp"]["mean"] == 0.5


def test_the_eval_command_refuses_unknown_opponents_before_it_plays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    with pytest.raises(UserError, match="no 'nobody'"):
        commands.eval_command(run, against=["random", "nobody"], deals=5)
    with pytest.raises(UserError, match="--deals: 0"):
        commands.eval_command(run, against=["random"], deals=0)
    assert capsys.readouterr().out == ""


class _Ends:
    """Stands in for a worker's connections: a learner that has published nothing yet."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.metrics = Metrics()
        self.reporter = SimpleNamespace(stop=threading.Event())
        self.board = SimpleNamespace(snapshots=lambda: {"learner-0": {"steps_trained": 3200.0}})
        self.weights = self
        self.versions: dict[str, int] = {}
        self.failures: list[Exception] = []
        self._tensors = random_weights(job)

    def latest(self, name: str) -> int | None:
        return self.versions.get(name)

    def fetch(self, name: str) -> SimpleNamespace:
        if self.failures:
            raise self.failures.pop()
        return SimpleNamespace(version=self.versions[name], tensors=self._tensors[name])


def test_the_evaluator_judges_the_newest_weights(tmp_path: Path) -> None:
    ends = _Ends(RunFolder(make_run(tmp_path)).job())
    judge = evaluator.Judge(ends)  # type: ignore[arg-type]
    assert not judge.judge()
    assert ends.metrics.snapshot() == {}
    ends.versions = {"landlord": 4, "landlord_down": 5, "landlord_up": 6}
    assert judge.judge()
    shown = ends.metrics.snapshot()
    assert shown["eval/step"] == 3200
    assert shown["version/landlord_up"] == 6
    for opponent in ("random", "rule"):
        wp, low, high = (shown[f"eval/{opponent}/{name}"] for name in ("wp", "wp_low", "wp_high"))
        assert 0 <= low <= wp <= high <= 1
        assert f"eval/{opponent}/adp" in shown


def test_the_evaluator_waits_for_weights_that_cannot_be_had(tmp_path: Path) -> None:
    ends = _Ends(RunFolder(make_run(tmp_path)).job())
    ends.versions = dict.fromkeys(GAME.seats, 1)
    ends.failures = [MissingError("replaced"), UnreachableError("restarting")]
    judge = evaluator.Judge(ends)  # type: ignore[arg-type]
    assert [judge.judge() for _ in range(3)] == [False, False, True]
    assert ends.metrics.snapshot()["weight_misses"] == 2


def test_the_evaluator_ends_when_told_to(tmp_path: Path) -> None:
    ends = _Ends(RunFolder(make_run(tmp_path)).job())
    ends.versions = dict.fromkeys(GAME.seats, 1)
    ends.reporter.stop.set()
    judge = evaluator.Judge(ends)  # type: ignore[arg-type]
    judge.run()
    assert judge.judge()
    assert "eval/step" not in ends.metrics.snapshot()
