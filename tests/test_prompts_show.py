"""`troupe prompts`: what the launcher writes down, and what a person is shown of it."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prompt_run import SETTINGS, Run, commit, got

from troupe import cli
from troupe.jobs.spec import EnvironmentSettings, Job
from troupe.prompts.record import FILE, PromptRecord
from troupe.runs import RunFolder
from troupe.store import server
from troupe.store.connection import Store

JOB = Job(name="sort", environment=EnvironmentSettings(name="x"), algorithm={"name": "grpo"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "store").mkdir()
    running = server.start(tmp_path / "store", password="p", memory_mb=16)
    store = Store.connect(running.url, "show")
    yield store
    store.close()
    running.stop()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs", JOB)


def prompts(folder: RunFolder, *options: str) -> int:
    return cli.main(["prompts", folder.name, "--runs", str(folder.path.parent), *options])


def under_way(store: Store) -> None:
    """Eight prompts, and something of everything."""
    run = Run(store, using=replace(SETTINGS, epochs=2, deliveries=1))
    actor, other = run.actor(0), run.actor(3)
    first, second, third, *rest = got(actor.lease(5, 5))
    commit(actor, first)
    actor.drop([second], "zero variance")
    actor.fail([third], "the reward number timed out after 10 s on every one of eight completions")
    actor.release(rest[:1])
    other.lease(1, 5)


def test_a_run_in_progress_shows_who_has_what_and_why_some_are_dead(
    store: Store, folder: RunFolder, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    under_way(store)
    PromptRecord(store, folder.path).poll()
    with folder.attempt():
        assert prompts(folder) == 0
    shown = capsys.readouterr().out
    assert "8 prompts, epoch 1 of 2, as they were 0 s ago" in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for line in (
        "ready 3",
        "leased 2",
        "done 1 1 wait for the learner",
        "dropped 1 1 zero variance",
        "dead 1",
    ):
        assert line in lines
    assert any(line.startswith("actor-0 1 0 s") for line in lines)
    assert any(line.startswith("actor-3 1 0 s") for line in lines)
    assert "the reward number timed out" in shown
    assert "sort 2" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_json_holds_all_of_it_and_dead_only_those(
    store: Store, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    under_way(store)
    PromptRecord(store, folder.path).write()
    assert prompts(folder, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {k: document[k] for k in ("state", "prompts", "ready", "done", "dead_count")} == {
        "state": "new", "prompts": 8, "ready": 3, "done": 1, "dead_count": 1,
    }  # fmt: skip
    assert [lease["holder"] for lease in document["leased"]] == ["actor-0", "actor-3"]
    assert prompts(folder, "--json", "--dead") == 0
    (dead,) = json.loads(capsys.readouterr().out)
    assert (dead["prompt"], dead["text"], dead["deliveries"]) == (2, "sort 2", 1)
    assert abs(dead["time"] - time.time()) < 60
    assert prompts(folder, "--dead") == 0
    assert "sort 2" in capsys.readouterr().out


def test_a_finished_run_is_shown_as_it_ended(
    store: Store, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(store, 3)
    actor = run.actor()
    commit(actor, *got(actor.lease(9, 5)))
    with folder.attempt():
        PromptRecord(store, folder.path).write()
        folder.set_status("done")
    assert prompts(folder) == 0
    shown = capsys.readouterr().out
    assert "as they were when it ended" in shown
    assert prompts(folder, "--dead") == 0
    assert capsys.readouterr().out == "no prompt is dead\n"


def test_what_there_is_nothing_to_show_of_is_one_line(
    store: Store, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    PromptRecord(store, folder.path).write()
    assert not (folder.path / FILE).exists()
    assert prompts(folder) == 2
    assert "no prompts: this run has none" in capsys.readouterr().err
    (folder.path / FILE).write_text('{"time": 1')
    assert prompts(folder) == 2
    error = capsys.readouterr().err
    assert "cannot be read" in error
    assert len(error.splitlines()) == 1


def test_it_looks_now_and_then_and_outlives_the_store(store: Store, folder: RunFolder) -> None:
    now = 0.0
    record = PromptRecord(store, folder.path, clock=lambda: now)
    record.poll()
    under_way(store)
    record.poll()
    assert not (folder.path / FILE).exists()
    now = 2.0
    record.poll()
    before = (folder.path / FILE).read_text()
    store.redis.flushdb()
    now = 4.0
    record.poll()
    assert (folder.path / FILE).read_text() == before
