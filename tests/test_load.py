"""Job files: read whole, with overrides, and refused in one line."""

import sys
import types
from pathlib import Path

import gymnasium
import pytest
import yaml

from troupe.config import config, dump
from troupe.errors import UserError
from troupe.jobs import load
from troupe.jobs.resolve import resolve
from troupe.policies import Spaces

ROOT = Path(__file__).parents[1]
JOB = """
name: small
game: {name: doudizhu}
algorithm: {name: deep_monte_carlo, batch: 320, optimizer: {name: adam, lr: 1e-3}}
"""


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load.read(path, list(overrides))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_every_example_is_sound(path: Path) -> None:
    assert load.read(path, []).name


def test_overrides_are_put_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    job = load.read(path, ["actors.count=3", "algorithm.optimizer.lr=1e-4", "stop.minutes=2"])
    assert job.actors.count == 3
    assert job.stop.minutes == 2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("actors.count", "key=value"),
        ("actors.count=", "actors.count: None"),
        ("seed=2024-13-45", "seed: '2024-13-45' is not a YAML value"),
        ("actors.cuont=3", "actors.cuont: unknown key; did you mean 'count'?"),
        ("name.first=3", "name.first: name is 'small', which has no keys below it"),
        ("game.name=doudzhu", "game.name: no 'doudzhu'; did you mean 'doudizhu'?"),
        ("game.name=../mine", "game.name: no '../mine'; there are: "),
        ("game.name=''", "game.name: no ''"),
        ("game.rules.joker=true", "game.rules.joker: unknown key"),
        ("algorithm.name=ppoo", "algorithm.name: no 'ppoo'; did you mean 'ppo'? ("),
        ("algorithm.name=returns", "it has no Config"),
        ("algorithm.objective=win", "algorithm.objective: 'win'"),
        ("algorithm.optimizer.name=adan", "algorithm.optimizer.name: 'adan'"),
        ("algorithm.optimizer.lr=-1", "algorithm.optimizer.lr: -1"),
        ("policies.dealer=x", "policies.dealer: doudizhu has no such seat"),
        ("store.capacity=900", "store.capacity: 900 is too small"),
        ("learner.device=cuda:9", "learner.device: 'cuda:9'"),
        ("environment.name=CartPole-v1", "game, environment, text: game and environment are there"),
        ("game=null", "game, environment, text: none of them is there"),
        ("lag=1", "lag: 1 needs schedule: lockstep"),
        ("evaluation.against=[rul]", "evaluation.against: no 'rul'; did you mean 'rule'?"),
    ],
)
def test_an_override_that_would_not_run_is_told_in_one_line(
    tmp_path: Path, override: str, told: str
) -> None:
    line = refusal(tmp_path, JOB, override)
    assert told in line
    assert "\n" not in line


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """An algorithm for discrete actions, whose plan is of whole fragments."""
    module = types.ModuleType("tests_fake.algorithm")

    @config
    class Config:
        hidden: int = 64

    class Algorithm:
        def __init__(self, settings: Config) -> None:
            self.plan = types.SimpleNamespace(batch=None, whole=True)

    def defaults(settings: Config, spaces: Spaces) -> dict[str, object]:
        if not isinstance(spaces.action, gymnasium.spaces.Discrete):
            raise UserError(f"algorithm.name: needs Discrete actions, not {spaces.action}")
        return {
            "network": {"hidden": settings.hidden, "layers": 2, "recurrent": 0},
            "actors": {"exploration": 0.3},
        }

    for name, value in (("Config", Config), ("Algorithm", Algorithm), ("defaults", defaults)):
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "tests_fake", types.ModuleType("tests_fake"))
    monkeypatch.setitem(sys.modules, "tests_fake.algorithm", module)


LIFT = {
    "name": "small",
    "environment": {"name": "CartPole-v1"},
    "algorithm": {"name": "tests_fake.algorithm", "hidden": 32},
}


@pytest.mark.usefixtures("fake")
def test_what_a_job_leaves_out_is_as_its_algorithm_says() -> None:
    job = resolve({**LIFT, "network": {"layers": 3}})
    assert (job.network.hidden, job.network.layers, job.network.recurrent) == (32, 3, 0)
    assert job.actors.exploration == 0.3
    assert job.actors.exploration_decay == 120
    assert job.policies == {"agent": "agent"}
    assert job.evaluation.against == ()


@pytest.mark.usefixtures("fake")
def test_a_resolved_job_resolves_to_itself() -> None:
    for data in (LIFT, yaml.safe_load(JOB)):
        job = resolve(data)
        assert resolve(yaml.safe_load(yaml.safe_dump(dump(job)))) == job


@pytest.mark.usefixtures("fake")
def test_the_store_has_room_for_a_batch_and_what_is_on_its_way() -> None:
    actors = {"count": 3, "environments": 2, "rollout": 10}
    assert resolve({**LIFT, "actors": actors}).store.capacity == 2 * 3 * 2 * 10
    with pytest.raises(UserError, match=r"store\.capacity: 100 is too small"):
        resolve({**LIFT, "actors": actors, "store": {"capacity": 100}})
    in_turns = resolve({**LIFT, "schedule": "lockstep", "lag": 1, "store": {"capacity": 1}})
    assert in_turns.store.capacity > 10**9


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"environment": {"name": "Pendulum-v1"}}, "algorithm.name: needs Discrete actions"),
        ({"environment": {"name": "CartPol-v1"}}, "did you mean 'CartPole-v1'"),
        ({"policies": {"landlord": "a"}}, "policies.landlord: CartPole-v1 has no such seat"),
        (
            {"evaluation": {"against": ["random"]}},
            "evaluation.against: random: an environment has no",
        ),
    ],
)
def test_a_job_that_does_not_fit_its_environment_is_told(
    change: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        resolve({**LIFT, **change})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a job is a mapping"),
        ("- 1", "a job is a mapping"),
        ("name: [", "line 1"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is there twice"),
        ("a: !!python/object:os.system x", "line 1"),
        ("? [a]\n: 1", "line 1"),
        ("a: 2024-13-45", "month must be in 1..12"),
    ],
)
def test_a_file_that_is_no_job_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(tmp_path, text)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml: cannot be read"):
        load.read(tmp_path / "nothing.yaml", [])


def test_a_full_disk_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "MIN_FREE_BYTES", 2**62)
    with pytest.raises(UserError, match="are free on its disk"):
        load.check_disk(tmp_path / "runs")


def test_the_dry_run_shows_the_job_and_who_talks_to_whom(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    text = load.show(load.read(path, []))
    assert "batch: 320" in text
    assert "max_grad_norm: 40.0" in text
    assert "# learner" in text
