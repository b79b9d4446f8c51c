"""The learner against a real store: exact batches, saving, going on, and what must not stop it."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from learner_stage import Stage, same

from troupe import checkpoint
from troupe.checkpoint import CheckpointError
from troupe.episodes import Ending, Episodes
from troupe.errors import FatalError, TroupeError
from troupe.policies import ACTION, Spaces
from troupe.store import server
from troupe.store.connection import Store
from troupe_learners.precision import Precision

SPACES = Spaces({"state": spaces.MultiBinary(8)}, spaces.MultiBinary(8))
POLICIES = {"even": SPACES, "odd": SPACES}
BATCH = 64
JOB: Mapping[str, object] = {
    "game": {"name": "toy"},
    "algorithm": {"name": "deep_monte_carlo", "batch": BATCH, "optimizer": {"name": "adam", "lr": 0.01}},
    "network": {"hidden": 16, "layers": 2, "recurrent": 0},
    "learner": {"precision": "fp32", "device": "cpu"},
    "store": {"capacity": 2000, "memory_mb": 64},
}  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = server.start(tmp_path_factory.mktemp("store"), password="secret", memory_mb=64)
    yield running.url
    running.stop()


@pytest.fixture
def stage(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Stage:
    name = request.node.name.replace("[", "-").replace("]", "")
    return Stage(url, tmp_path, name, JOB, POLICIES)


def open_log(stage: Stage) -> None:
    """Let the learner set the limits, without any training."""
    with stage.session():
        pass


def block(seed: int, steps: int = 40, policy: str | None = None, version: int = 0) -> Episodes:
    random = np.random.default_rng(seed)
    games = steps // 4
    return Episodes(
        policy=policy or ("even", "odd")[seed % 2],
        actor="actor-0",
        incarnation=0,
        attempt=1,
        observation={"state": random.integers(0, 256, (steps, 1), dtype=np.uint8)},
        action={ACTION: random.integers(0, 256, (steps, 1), dtype=np.uint8)},
        reward=random.choice([-1.0, 1.0], steps).astype(np.float32),
        log_prob=np.zeros(steps, np.float32),
        version=np.full(steps, version, np.uint32),
        length=np.full(games, 4, np.int32),
        seat=np.zeros(games, np.uint8),
        group=np.arange(games, dtype=np.int64),
        ending=np.full(games, Ending.TERMINATED, np.uint8),
    )


def test_it_trains_publishes_reports_and_saves(stage: Stage) -> None:
    open_log(stage)
    stage.push(*[block(seed) for seed in range(10)])
    stage.run(updates=6)
    assert {(p, v) for p in POLICIES for v in range(4)} == stage.published.weights.keys()
    state = stage.state()
    assert (state.step, state.updates) == (6 * BATCH, {"even": 3, "odd": 3})
    for policy in POLICIES:
        same({policy: stage.published.weights[policy, 3]}, {policy: state.weights[policy]})
    seen = stage.metrics.snapshot()
    assert seen["steps_trained"] == 6 * BATCH
    assert seen["updates"] == 6
    assert seen["updates/odd"] == 3
    assert 0 < float(seen["loss/even"]) < 50
    assert float(seen["grad_norm/odd"]) > 0
    assert seen["staleness_max"] == 2
    assert seen["checkpoints"] == 1
    # 5 blocks of 40 for each, of which 3 x 64 rows are trained on; the last of each is kept.
    left = stage.replay.state()
    assert (left.backlog, left.retained_blocks) == (400 - 6 * BATCH, 2)


def test_a_resumed_learner_ends_bit_by_bit_where_an_unbroken_one_does(stage: Stage) -> None:
    blocks = [block(seed) for seed in range(20)]
    unbroken = replace(stage, name=stage.name + "-unbroken", folder=stage.folder / "unbroken")
    for one in (stage, unbroken):
        open_log(one)
        one.push(*blocks)
    unbroken.run(updates=12)
    stage.run(updates=5)
    stage.run(updates=12)
    assert stage.state().updates == unbroken.state().updates == {"even": 6, "odd": 6}
    same(unbroken.state().weights, stage.state().weights)
    same(unbroken.state().states, stage.state().states)
    assert stage.state().random == unbroken.state().random
    assert stage.replay.state().backlog == unbroken.replay.state().backlog == 800 - 12 * BATCH


def test_a_killed_learner_trains_again_on_what_its_checkpoint_lacks(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_log(stage)
    stage.push(*[block(seed) for seed in range(20)])
    stage.run(updates=4)
    with monkeypatch.context() as patch, stage.session() as session:
        session._job = replace(session._job, stop=replace(session._job.stop, updates=9))
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(InterruptedError):
            session.run()
    assert stage.state().step == 4 * BATCH
    stage.run(updates=12)
    assert stage.state().step == 12 * BATCH
    assert stage.metrics.snapshot()["republished"] >= 5
    for (policy, version), weights in stage.published.weights.items():
        if version == stage.state().updates[policy]:
            same({policy: weights}, {policy: stage.state().weights[policy]})
    assert stage.replay.state().backlog == 800 - 12 * BATCH


def killed(*_: object, **__: object) -> None:
    raise InterruptedError


def test_the_word_to_stop_ends_it_with_a_checkpoint(stage: Stage) -> None:
    open_log(stage)
    stage.push(*[block(seed) for seed in range(4)])
    stage.stop_updates = 1000
    with stage.session() as session:
        thread = threading.Thread(target=session.run)
        thread.start()
        while stage.metrics.snapshot().get("updates") != 2:
            assert thread.is_alive()
        stage.told.stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert stage.state().step == 2 * BATCH


def test_what_became_too_old_while_it_waited_is_dropped_and_counted(stage: Stage) -> None:
    stage.job = {**JOB, "store": {"capacity": 2000, "memory_mb": 64, "max_staleness": 2}}
    open_log(stage)
    stage.push(*[block(2 * seed, steps=64) for seed in range(6)], block(100, 128, version=4))
    stage.run(updates=5)
    seen = stage.metrics.snapshot()
    assert seen["stale_steps"] == 3 * 64
    assert seen["steps_trained"] == 5 * BATCH
    assert stage.replay.state().backlog == 0
    assert stage.replay.state().retained_blocks == 0


def test_a_full_disk_ends_a_run_only_at_its_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.job = {**JOB, "checkpoint": {"every": 0.001}}
    open_log(stage)
    stage.push(*[block(seed) for seed in range(8)])

    def full(run_folder: Path, *_: object, **__: object) -> Path:
        raise CheckpointError(f"{run_folder}: not saved, the disk is full")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        stage.run(updates=4)
    assert stage.metrics.snapshot()["checkpoint_failures"] >= 1
    assert stage.metrics.snapshot()["steps_trained"] == 4 * BATCH
    assert stage.replay.state().retained_blocks == 8


def test_what_is_left_of_an_earlier_attempt_saves_nothing(stage: Stage) -> None:
    open_log(stage)
    stage.push(*[block(seed) for seed in range(4)])
    (stage.folder / "attempt").write_text("99\n")
    with pytest.raises(FatalError, match="attempt 99 at the run has begun"):
        stage.run(updates=2)
    assert not list(stage.folder.glob("checkpoints/step-*"))


def test_a_store_that_lost_its_memory_between_lives_is_filled_anew(stage: Stage) -> None:
    open_log(stage)
    stage.push(*[block(seed) for seed in range(4)])
    stage.run(updates=2)
    store = Store.connect(stage.url, stage.name)
    for key in store.redis.scan_iter(store.key("*")):
        store.redis.delete(key)
    stage.stop_updates = 4
    open_log(stage)
    stage.push(*[block(seed) for seed in range(4)])
    stage.run(updates=4)
    assert stage.state().step == 4 * BATCH


def test_a_store_that_loses_its_memory_under_a_learner_is_filled_anew(stage: Stage) -> None:
    open_log(stage)
    stage.push(*[block(seed) for seed in range(6)])
    stage.stop_updates = 4
    with stage.session() as session:
        thread = threading.Thread(target=session.run)
        thread.start()
        while stage.metrics.snapshot().get("updates") != 2:
            assert thread.is_alive()
        store = Store.connect(stage.url, stage.name)
        store.redis.delete(*store.redis.scan_iter(store.key("*")))
        stage.push(*[block(seed) for seed in range(4)])
        thread.join(20)
    assert not thread.is_alive()
    assert stage.state().step == 4 * BATCH
    assert stage.replay.state().backlog == 4 * 40 - 2 * BATCH


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"network": {"hidden": 8, "layers": 2, "recurrent": 0}},
            r"even: weights: .* was the job changed",
        ),
        ({"game": {"name": "other"}}, r"a checkpoint of deep_monte_carlo on toy for even, odd"),
    ],
)
def test_a_checkpoint_of_another_job_is_refused(
    stage: Stage, change: Mapping[str, object], says: str
) -> None:
    open_log(stage)
    stage.push(*[block(seed) for seed in range(4)])
    stage.run(updates=1)
    stage.job = {**JOB, **change}
    with pytest.raises(CheckpointError, match=says):
        open_log(stage)


def test_blocks_nobody_learns_from_are_refused(stage: Stage) -> None:
    open_log(stage)
    stage.push(block(0, policy="stranger"))
    with pytest.raises(TroupeError, match="for policy 'stranger', which this run does not train"):
        stage.run(updates=1)


def test_a_diverged_policy_is_neither_published_nor_saved(stage: Stage) -> None:
    open_log(stage)
    broken = replace(block(0, steps=64), reward=np.full(64, np.nan, np.float32))
    stage.push(broken)
    stage.job = {
        **JOB,
        "algorithm": {
            "name": "deep_monte_carlo",
            "objective": "adp",
            "batch": BATCH,
            "optimizer": {"name": "sgd", "lr": 0.1},
        },
    }
    with pytest.raises(TroupeError, match=r"the loss of even is nan at update 1; lower"):
        stage.run(updates=1)
    assert stage.published.newest("even") == 0
    assert checkpoint.available(stage.folder) == []


def test_a_gradient_without_a_value_ends_it_before_anyone_gets_the_weights(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless fp16 skips such a step, the weights are lost although the loss was sound."""
    open_log(stage)
    stage.push(block(0, steps=64))
    monkeypatch.setattr(Precision, "step", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(TroupeError, match="the grad_norm of even is nan at update 1"):
        stage.run(updates=1)
    assert stage.published.newest("even") == 0
    assert checkpoint.available(stage.folder) == []
    monkeypatch.setattr(Precision, "skips_overflow", True)
    stage.run(updates=1)
    assert "grad_norm/even" not in stage.metrics.snapshot()
