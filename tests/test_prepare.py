"""What a job makes for itself first: whole or not at all, and once."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from troupe.config import config, dump
from troupe.errors import UserError
from troupe.jobs import session
from troupe.jobs.prepare import prepare, prepared_paths
from troupe.jobs.resolve import resolve
from troupe.jobs.spec import EnvironmentSettings, Job, PrepareSettings
from troupe.runs import RunFolder


@config
class Options:
    lines: int = 2


calls: list[int] = []


def fill(folder: Path, options: Options, seed: int) -> None:
    calls.append(seed)
    (folder / "first").write_text("a\n" * options.lines)
    if options.lines == 7:
        raise KeyboardInterrupt
    (folder / "second").write_text(str(seed))


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    calls.clear()
    made = SimpleNamespace(Options=Options, prepare=fill)
    monkeypatch.setitem(sys.modules, "mine.task", made)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "mine.other", SimpleNamespace())  # type: ignore[arg-type]


def job(name: str = "mine.task", **options: object) -> Job:
    return Job(
        name="small",
        seed=5,
        environment=EnvironmentSettings(name="CartPole-v1"),
        prepare=PrepareSettings(name=name, options=options),
        algorithm={"name": "ppo"},
    )


def test_it_is_made_once_and_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder.create(tmp_path, job())
    (run.path / ".prepared").mkdir()  # of a process that was killed
    (run.path / ".prepared" / "half").touch()
    prepare(job(), run)
    prepare(job(), run)
    assert calls == [5]
    made = {path.name: path.read_text() for path in (run.path / "prepared").iterdir()}
    assert made == {"first": "a\na\n", "second": "5"}
    assert not (run.path / ".prepared").exists()
    assert "first, second in" in capsys.readouterr().out


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, job())
    with pytest.raises(KeyboardInterrupt):
        prepare(job(lines=7), run)
    assert not [path for path in run.path.iterdir() if "prepared" in path.name]
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(dump(job(lines=7))))
    with pytest.raises(KeyboardInterrupt):
        session.begin(file, [], tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_nobody_else_makes_it_meanwhile(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, job())
    with run.hold(), pytest.raises(UserError, match="is running as pid"):
        prepare(job(), run)


def test_options_are_made_whole_and_checked() -> None:
    whole = resolve(dump(job()))
    assert whole.prepare == PrepareSettings(name="mine.task", options={"lines": 2})
    assert resolve(dump(whole)) == whole
    for wrong, says in (
        (job(lines="many"), r"prepare\.options\.lines: 'many'"),
        (job("sortin"), r"prepare\.name: no 'sortin'; did you mean 'sorting'"),
        (job("mine.other"), r"prepare\.name: 'mine\.other' is no task: it has no Options"),
    ):
        with pytest.raises(UserError, match=says):
            resolve(dump(wrong))


def test_paths_lead_into_the_runs_folder(tmp_path: Path) -> None:
    of = replace(
        job(path="prepared/x"),
        environment=EnvironmentSettings(
            name="CartPole-v1", options={"a": ["prepared/b", "unprepared/b"], "c": "prepared"}
        ),
    )
    found = prepared_paths(of, tmp_path)
    assert found.environment is not None
    assert found.environment.options == {
        "a": [f"{tmp_path}/prepared/b", "unprepared/b"],
        "c": "prepared",
    }
    assert found.prepare == of.prepare
    plain = replace(of, prepare=None)
    assert prepared_paths(plain, tmp_path) == plain
