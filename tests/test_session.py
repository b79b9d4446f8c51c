"""Resuming: what does not fit is told before anything is touched."""

import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from troupe import checkpoint
from troupe.checkpoint import Checkpoint, CheckpointError
from troupe.config import dump
from troupe.errors import UserError
from troupe.jobs import local, session
from troupe.jobs.resolve import resolve
from troupe.jobs.spec import GameSettings, Job, StoreSettings
from troupe.runs import RunFolder

JOB = Job(
    name="small",
    game=GameSettings(name="doudizhu"),
    algorithm={"name": "deep_monte_carlo", "optimizer": {"name": "adam", "lr": 1e-3}},
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "my runs", resolve(dump(JOB)))
    for step in (100, 200):
        weights = {"w": {"bias": np.full(3, step, "f4")}}
        state = Checkpoint("other", "doudizhu", "deep_monte_carlo", step, {"w": 1}, weights)
        checkpoint.save(folder.path, state)
    return folder


def contents(run: RunFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("network.hidden=64", "network.hidden: 64 does not fit"),
        ("algorithm.optimizer.name=sgd", "algorithm.optimizer.name: 'sgd' does not fit"),
        ("policies={landlord: a}", "policies.landlord: 'a' does not fit"),
    ],
)
def test_a_key_that_checkpoints_depend_on_stays(run: RunFolder, override: str, told: str) -> None:
    before = contents(run)
    with pytest.raises(UserError, match=told) as caught:
        session.resume(str(run.path), run.path.parent, [override], None)
    assert "\n" not in str(caught.value)
    assert contents(run) == before


def test_a_damaged_checkpoint_is_told_before_anything_starts(run: RunFolder) -> None:
    file = run.checkpoints / "step-000000000200" / "w.weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    before = contents(run)
    with pytest.raises(CheckpointError, match=r"w\.weights\.safetensors: damaged"):
        session.resume(run.name, run.path.parent, ["stop.steps=900"], None)
    assert contents(run) == before


def test_the_checkpoint_that_was_named_is_looked_at(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_go", lambda job, folder: job.stop.steps)
    (run.checkpoints / "step-000000000200" / "manifest.json").write_text("{")
    named = "step-000000000100"
    assert session.resume(run.name, run.path.parent, ["stop.steps=900"], named) == 900
    assert run.job().stop.steps == 900
    with pytest.raises(UserError, match="is not in"):
        session.resume(run.name, run.path.parent, [], "step-9")


def test_a_second_signal_ends_at_once_unless_it_is_an_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    with session._signals(stop):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        monkeypatch.setattr(session, "ONE_WISH_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://[abc", "not a URL"),
        ("redis://user:secret@127.0.0.1:1", "no place for a password"),
        ("redis://127.0.0.1:1?password=secret", "no place for a password"),
        ("http://127.0.0.1:1", "not given as redis://"),
    ],
)
def test_a_store_that_cannot_be_used_is_told_without_its_password(url: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        local.check_store(replace(JOB, store=StoreSettings(url=url)))
    assert "secret" not in str(caught.value)
