"""A language model learned by several ranks, each a process, and by one: the same weights."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import text_ranks_worker
import transformers
from text_ranks_worker import DIVIDED, WAYS, below, go_on, learner, named, train, trained

from troupe.episodes import Array, Columns
from troupe.errors import UserError
from troupe.language import small
from troupe.language.small import SmallSettings
from troupe_learners.batches import join, passed
from troupe_learners.ranks import Ranks
from troupe_learners.trainee import Trainee


@dataclass
class Told:
    """What two ranks came to."""

    weights: list[dict[str, Array]]
    scalars: dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder: that of a small one, with another model's weights."""
    place = tmp_path_factory.mktemp("text") / "model"
    small.build(place, SmallSettings(hidden=16, layers=2, heads=2, context=32), seed=1)
    return place


@pytest.fixture(scope="module")
def told(folder: Path) -> Told:
    half = train(learner(folder, Ranks(), *DIVIDED["grpo"]), Ranks(), 0)
    saved = named("weights", half.weights()) | named("state", half.state())
    out = folder.parent
    np.savez(out / "saved.npz", **saved)
    # Whatever is imported here is imported there.
    inherited = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                text_ranks_worker.__file__,
                str(rank),
                "2",
                str(folder),
                str(out),
            ],
            env=inherited,
        )
        for rank in range(2)
    ]
    assert [worker.wait(240) for worker in workers] == [0, 0]
    return Told(
        [dict(np.load(out / f"rank-{rank}.npz")) for rank in range(2)],
        json.loads((out / "rank-0.json").read_text()),
    )


def test_two_ranks_make_the_updates_that_one_makes(folder: Path, told: Told) -> None:
    first, second = told.weights
    for way, algorithm in WAYS.items():
        for name, tensor in below(way, first).items():
            np.testing.assert_array_equal(second[f"{way}.{name}"], tensor, name)
        alike(trained(folder, Ranks(), algorithm), below(way, first), told.scalars[way])


@pytest.mark.parametrize("way", ["grpo", "ppo", "critic", "adapters"])
def test_ranks_with_a_share_of_every_parameter_make_them_too(
    folder: Path, told: Told, way: str
) -> None:
    alone = train(learner(folder, Ranks(), *DIVIDED[way]), Ranks(), 0, 1)
    first, second = told.weights
    alike(alone, below(f"divided.{way}", first), told.scalars[f"divided.{way}"])
    assert not below(f"divided.{way}", second)


def test_the_ranks_have_not_equally_many_micro_batches() -> None:
    """So that what is tested here includes ranks that wait for others."""
    counts = []
    for rank in range(2):
        of = join(text_ranks_worker.pieces(0, rank, 2), text_ranks_worker.CPU)
        parts = passed(of, 20, lambda own: max(own, 3), whole=True)
        assert len(parts) == 3
        counts.append(sum(counted for _, counted in parts))
        assert sum(part.steps for part, counted in parts if counted) == of.steps
    assert counts[0] > counts[1]


def test_in_half_precision_shares_come_to_nearly_the_same(folder: Path, told: Told) -> None:
    """Layers are rounded where autocast rounds products."""
    alone = learner(folder, Ranks(), *DIVIDED["bf16"])
    begun, given = alone.weights(), below("divided.bf16", told.weights[0])
    ended = train(alone, Ranks(), 0, 1).weights()
    moved = np.concatenate([(ended[name] - begun[name]).ravel() for name in begun])
    apart = np.concatenate([(given[name] - ended[name]).ravel() for name in begun])
    assert np.linalg.norm(apart) < 0.1 * np.linalg.norm(moved)
    assert {tensor.dtype for tensor in given.values()} == {np.dtype(np.float32)}


def test_what_is_saved_does_not_depend_on_how_it_was_held(folder: Path, told: Told) -> None:
    whole = train(learner(folder, Ranks(), *DIVIDED["grpo"]), Ranks(), 0, 1)
    first = told.weights[0]
    alike(whole, below("again.weights", first))
    state = below("again.state", first)
    for name in ("exp_avg", "exp_avg_sq", "step"):
        key = f"optimizer.all.{name}"
        np.testing.assert_allclose(state[key], whole.state()[key], rtol=1e-3, atol=1e-6)
    saved = below("saved", first)
    assert saved["state.optimizer.all.step"] == 2.0
    again = go_on(learner(folder, Ranks(), *DIVIDED["grpo"]), saved)
    alike(train(again, Ranks(), 1), whole.weights())


def alike(trainee: Trainee, weights: Columns, scalars: Mapping[str, float] | None = None) -> None:
    own = trainee.weights()
    assert own.keys() == weights.keys()
    for name, tensor in own.items():
        np.testing.assert_allclose(weights[name], tensor, rtol=1e-3, atol=1e-5, err_msg=name)
    for name, value in trainee.scalars.items() if scalars else ():  # type: ignore[attr-defined]
        assert scalars[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_a_run_goes_on_from_what_it_saved_and_its_weights_are_a_models(folder: Path) -> None:
    algorithm = WAYS["grpo"]
    whole, half = trained(folder, Ranks(), algorithm), trained(folder, Ranks(), algorithm, turns=1)
    again = trained(folder, Ranks(), algorithm, turns=0)
    again.restore(half.updates, half.weights(), half.state(), half.random_state(), {})
    again.train(text_ranks_worker.pieces(1, 0, 1), 0.0)
    for name, tensor in whole.weights().items():
        np.testing.assert_array_equal(again.weights()[name], tensor, name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    sent = whole.published()
    assert sent.keys() == dict(model.named_parameters()).keys()
    assert all(tensor.dtype == np.float32 for tensor in sent.values())


def test_a_job_without_a_model_is_told_so() -> None:
    with pytest.raises(UserError, match=r"network\.language\.model"):
        trained(Path(), Ranks(), WAYS["grpo"], turns=0)
