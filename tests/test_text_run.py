"""Runs of text: prompts, an engine, rewards, the learner; each worker is a process, in a real store."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hurt_runs import Runs, data, trained_on
from learner_stage import same

from troupe import checkpoint, samples
from troupe.errors import UserError
from troupe.jobs import soundness
from troupe.jobs.resolve import resolve
from troupe.language.small import SmallSettings, build
from troupe.store import server
from troupe.store.connection import Store
from troupe.store.prompt_state import look

PROMPTS = 60


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = server.start(tmp_path_factory.mktemp("store"), password="test", memory_mb=128)
    yield running.url
    running.stop()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("text")
    build(folder / "model", SmallSettings(hidden=16, layers=1, heads=2, context=32), seed=1)
    digits = np.random.default_rng(1).integers(0, 10, (PROMPTS, 3))
    rows = [{"prompt": f"{a}{b}{c}=", "answer": f"{a}"} for a, b, c in digits.tolist()]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": "text",
        "text": {
            "prompts": {"path": str(folder / "prompts.jsonl"), "timeout": 2},
            "rewards": [{"name": "length", "options": {"max_tokens": 6, "rule": "price"}}],
            "groups": 4,
            "completions": 4,
            "max_tokens": 6,
            "engine": {"slots": 16, "max_length": 24},
        },
        "network": {"kind": "language", "language": {"model": str(folder / "model")}},
        "algorithm": {"name": "grpo", "optimizer": {"name": "adamw", "lr": 1e-2}},
        "learner": {"device": "cpu", "precision": "fp32"},
        "checkpoint": {"every": 0.2},
        "store": {"memory_mb": 64},
    }


def test_in_turns_a_run_ends_with_the_same_weights_however_it_went(
    url: str, tmp_path: Path, job: dict[str, object]
) -> None:
    changes = ("schedule=lockstep", "lag=1", "actors.count=2", "stop.updates=60")
    runs = Runs(url, tmp_path, job, *changes)
    once = runs.run("once")
    assert once.updates == {"agent": 60}
    hurt = runs.hurt("hurt")
    assert hurt.step == once.step
    same(once.weights, hurt.weights)


def test_in_turns_what_is_alike_is_made_up_for_by_the_same_prompts_however_it_went(
    url: str, tmp_path: Path, job: dict[str, object]
) -> None:
    """Completions grow alike, so that in the end refills are spent, and still every batch is full."""
    changes = ("schedule=lockstep", "lag=1", "actors.count=2", "stop.updates=60")
    runs = Runs(url, tmp_path, job, *changes, "text.drop_alike=true", "text.refills=1")
    once = runs.run("refilled")
    told = once.documents["prompts"]
    assert (told["done"], once.updates) == (4 * 60, {"agent": 60})
    assert 20 < told["dropped"]["all rewards alike"] <= 4 * 62  # type: ignore[index, operator]
    groups = [entry.group for entry in samples.read(tmp_path / "refilled" / "samples.jsonl", 0)]
    assert len(groups) > 2 * 4 * 4  # of two turns
    hurt = runs.hurt("refilled-hurt")
    assert hurt.documents["prompts"]["done"] == 4 * 60
    same(once.weights, hurt.weights)


def test_in_turns_a_run_ends_with_its_prompts_also_where_some_were_left_out(
    url: str, tmp_path: Path, job: dict[str, object]
) -> None:
    changes = ("schedule=lockstep", "text.prompts.epochs=2", "text.drop_alike=true")
    ended = Runs(url, tmp_path, job, *changes).run("used")
    told = ended.documents["prompts"]
    dropped = sum(told["dropped"].values())  # type: ignore[attr-defined]
    assert dropped > 0
    assert told["done"] + dropped == 2 * PROMPTS  # type: ignore[operator]
    assert ended.updates["agent"] <= -(-int(str(told["done"])) // 4) + 1


def test_freely_every_prompt_is_answered_once_whoever_is_killed(
    url: str, tmp_path: Path, job: dict[str, object]
) -> None:
    epochs = 6
    runs = Runs(url, tmp_path, job, f"text.prompts.epochs={epochs}", "actors.count=2")
    crew, moments = runs.crew("killed"), random.Random(3)
    trained_on(crew)
    for _ in range(4):
        crew.posts["actor", moments.randrange(2)].kill()
        deadline = time.monotonic() + moments.uniform(0.1, 0.6)
        while time.monotonic() < deadline and not crew.look_after():
            time.sleep(0.02)
    crew.wait()
    state = look(Store.connect(url, "killed"))
    assert (state.ready, len(state.leased), state.dropped, state.dead) == (0, 0, {}, ())
    assert state.done == epochs * PROMPTS
    assert state.waiting < 4


def test_ranks_that_share_a_model_go_on_as_one_that_has_all_of_it(
    url: str, tmp_path: Path, job: dict[str, object]
) -> None:
    """One of them is killed on the way; every prompt is learned from once for each epoch."""
    changes = ("text.prompts.epochs=2", "text.prompts.timeout=60", "actors.count=2")
    runs = Runs(url, tmp_path, job, *changes)
    crew = runs.crew("shared", "learner.count=2", "learner.sharding=full", "stop.updates=12")
    try:
        crew.wait(("learner", 1), after=3)
    finally:
        crew.close()
    shared = checkpoint.load(checkpoint.newest(tmp_path / "shared"))
    assert shared.updates == {"agent": 12}
    assert shared.positions.keys() == {"0", "1"}
    assert all(np.isfinite(tensor).all() for tensor in shared.weights["agent"].values())
    alone = runs.run("shared")
    assert alone.updates["agent"] > 20
    assert alone.positions.keys() == {"0"}
    assert alone.weights["agent"].keys() == shared.weights["agent"].keys()
    state = look(Store.connect(url, "shared"))
    assert (state.ready, len(state.leased), state.dropped, state.dead) == (0, 0, {}, ())
    assert state.done == 2 * PROMPTS
    assert state.waiting < 4


def test_text_learns_and_leaves_samples(url: str, tmp_path: Path, job: dict[str, object]) -> None:
    """What costs by the token grows short."""
    state = Runs(url, tmp_path, job, "schedule=lockstep", "stop.updates=80").run("short")
    table = tmp_path / "short" / "samples.jsonl"
    lengths = {
        version: np.mean([entry.tokens for entry in samples.read(table, version)])
        for version in (0, 79)
    }
    assert lengths[79] < 0.6 * lengths[0]
    assert state.documents["prompts"]["done"] == 4 * 80


def test_answers_are_imitated(url: str, tmp_path: Path, job: dict[str, object]) -> None:
    changes = ("algorithm={name: sft, optimizer: {name: adamw, lr: 0.01}}", "text.rewards=[]")
    crew = Runs(url, tmp_path, job, *changes).crew("imitated", "text.prompts.epochs=20")
    losses = []
    while not crew.look_after():
        losses.append(crew.board.snapshots().get("learner-0", {}).get("loss/agent"))
        time.sleep(0.05)
    crew.close()
    told = [float(str(loss)) for loss in losses if loss is not None]
    assert told[-1] < 0.6 * np.log(261)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["text.completions=1"], r"^text.completions: 1, but grpo compares"),
        (["text.top_p=0.9"], r"^text.top_p: 0.9 cuts the distribution"),
        (["text.temperature=0"], r"^text.temperature: 0 always takes the likeliest"),
        (["text.rewards=[]"], r"^text.rewards: no reward of a weight other than 0"),
        (["text.prompts.path=nowhere.jsonl"], r"nowhere.jsonl"),
        (["text.prompts.answer=solution"], r"solution"),
        (["text.engine.max_length=4"], r"^text.prompts: row 0: 4 tokens, text.engine.max_length is 4"),
        (["text.engine.max_length=64"], r"^text.engine.max_length: 64 is past the 32 tokens"),
        (["network.language.model=nowhere"], r"^network.language.model: 'nowhere' is no folder"),
        (["network.language={}"], r"^network.language.model: missing"),
        (["environment={name: CartPole-v1}"], r"environment and text are there"),
        (["actors.colocated=true", "schedule=lockstep"], r"^actors.colocated: true is for games"),
        (["learner.sharding=full"], r"^learner.sharding: full divides a model among ranks, and learner.count is 1"),
        (["learner.count=8", "actors.count=8"], r"^text.groups: 4 in an update, and each of 8 ranks"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_says_so(
    job: dict[str, object], overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        soundness.look(resolve(data(job, *overrides)))
