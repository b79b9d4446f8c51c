"""Job files: read whole, with overrides, and refused in one line."""

from pathlib import Path

import pytest

from troupe.errors import UserError
from troupe.jobs import load

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
        ("game.rules.joker=true", "game.rules.joker: unknown key"),
        ("algorithm.name=ppoo", "algorithm.name: no 'ppoo'"),
        ("algorithm.name=returns", "it has no Config"),
        ("algorithm.objective=win", "algorithm.objective: 'win'"),
        ("algorithm.optimizer.name=adan", "algorithm.optimizer.name: 'adan'"),
        ("algorithm.optimizer.lr=-1", "algorithm.optimizer.lr: -1"),
        ("policies.dealer=x", "policies.dealer: doudizhu has no such seat"),
        ("store.capacity=900", "store.capacity: 900 is too small"),
        ("learner.device=cuda:9", "learner.device: 'cuda:9'"),
        ("evaluation.against=[rul]", "evaluation.against: no 'rul'; did you mean 'rule'?"),
    ],
)
def test_an_override_that_would_not_run_is_told_in_one_line(
    tmp_path: Path, override: str, told: str
) -> None:
    line = refusal(tmp_path, JOB, override)
    assert told in line
    assert "\n" not in line


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
