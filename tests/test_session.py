"""Resuming: what does not fit is told before anything is touched."""

import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from troupe import checkpoint, policies
from troupe.checkpoint import Checkpoint, CheckpointError
from troupe.config import dump
from troupe.errors import UserError
from troupe.jobs import session, stores
from troupe.jobs.resolve import resolve
from troupe.jobs.roles import policies_of
from troupe.jobs.spec import GameSettings, Job, NetworkSettings, StoreSettings
from troupe.runs import RunFolder
from troupe.store import StoreError, server
from troupe.store.connection import Store

JOB = Job(
    name="small",
    game=GameSettings(name="doudizhu"),
    algorithm={"name": "deep_monte_carlo", "optimizer": {"name": "adam", "lr": 1e-3}},
    network=NetworkSettings(hidden=16, layers=1, recurrent=8),
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "my runs", resolve(dump(JOB)))
    for step in (100, 200):
        checkpoint.save(folder.path, saved(JOB, step))
    return folder


def saved(job: Job, step: int) -> Checkpoint:
    """What a learner of this job might have saved."""
    weights = {
        name: {
            key: t.numpy() for key, t in policies.create(spaces, job.network).state_dict().items()
        }
        for name, spaces in policies_of(job).items()
    }
    updates = dict.fromkeys(weights, 1)
    return Checkpoint("other", "doudizhu", "deep_monte_carlo", step, updates, weights)


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
        session.begin_again(str(run.path), run.path.parent, [override], None)
    assert "\n" not in str(caught.value)
    assert contents(run) == before


def test_a_damaged_checkpoint_is_told_before_anything_starts(run: RunFolder) -> None:
    file = run.checkpoints / "step-000000000200" / "landlord.weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    before = contents(run)
    with pytest.raises(CheckpointError, match=r"landlord\.weights\.safetensors: damaged"):
        session.begin_again(run.name, run.path.parent, ["stop.steps=900"], None)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (replace(saved(JOB, 300), game="go"), "of deep_monte_carlo on go for landlord"),
        (saved(replace(JOB, policies={"landlord": "boss"}), 300), "for boss, landlord_down"),
        (saved(replace(JOB, network=NetworkSettings(hidden=32)), 300), "landlord: of another net"),
    ],
)
def test_a_foreign_checkpoint_is_told_before_anything_starts(
    run: RunFolder, state: Checkpoint, told: str
) -> None:
    checkpoint.save(run.path, state)
    before = contents(run)
    with pytest.raises(CheckpointError, match=rf"step-000000000300: .*{told}.*; move it away"):
        session.begin_again(run.name, run.path.parent, ["stop.steps=900"], None)
    assert contents(run) == before


def test_what_the_store_refuses_is_told_before_anything_is_touched(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run)
    made = server.start(tmp_path / "store", password="secret", memory_mb=64)
    try:
        store = Store.connect(made.url, run.identity)
        store.redis.set(store.key("schema"), 99)
        monkeypatch.setenv(stores.PASSWORD, "secret")
        with pytest.raises(StoreError, match="schema 99"):
            session.begin_again(
                run.name, run.path.parent, [f"store.url=redis://{store.where}"], None
            )
    finally:
        made.stop()
    assert contents(run) == before


def test_the_checkpoint_that_was_named_is_looked_at(
    run: RunFolder,
) -> None:
    (run.checkpoints / "step-000000000200" / "manifest.json").write_text("{")
    named = "step-000000000100"
    session.begin_again(run.name, run.path.parent, ["stop.steps=900"], named)
    assert run.job().stop.steps == 900
    with pytest.raises(UserError, match="is not in"):
        session.begin_again(run.name, run.path.parent, [], "step-9")


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
        stores.check(replace(JOB, store=StoreSettings(url=url)))
    assert "secret" not in str(caught.value)
