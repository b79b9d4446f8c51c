"""A language model learned by several ranks, each a process, and by one: the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import text_ranks_worker
import transformers
from text_ranks_worker import WAYS, trained

from troupe.errors import UserError
from troupe.language import small
from troupe.language.small import SmallSettings
from troupe_learners.ranks import Ranks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder: that of a small one, with another model's weights."""
    place = tmp_path / "model"
    small.build(place, SmallSettings(hidden=16, layers=1, heads=2, context=32), seed=1)
    return place


def test_two_ranks_make_the_updates_that_one_makes(folder: Path, tmp_path: Path) -> None:
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
                str(tmp_path),
            ],
            env=inherited,
        )
        for rank in range(2)
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    first, second = (dict(np.load(tmp_path / f"rank-{rank}.npz")) for rank in range(2))
    for name, tensor in first.items():
        np.testing.assert_array_equal(second[name], tensor, name)
    told = json.loads((tmp_path / "rank-0.json").read_text())
    for way, algorithm in WAYS.items():
        alone = trained(folder, Ranks(), algorithm)
        for name, tensor in alone.weights().items():
            np.testing.assert_allclose(first[f"{way}.{name}"], tensor, rtol=1e-3, atol=1e-5)
        for name, value in alone.scalars.items():  # type: ignore[attr-defined]
            assert told[way][name] == pytest.approx(value, rel=1e-3, abs=1e-5), (way, name)


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
