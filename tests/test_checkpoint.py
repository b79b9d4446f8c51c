"""Checkpoints: whole or not there, verified when read, and never harmed by a failed save."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from troupe import checkpoint
from troupe.checkpoint import Checkpoint, CheckpointError, Position


def sample(step: int = 6400) -> Checkpoint:
    weights = {
        "layer.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "bias": np.ones(3, "f4"),
    }
    return Checkpoint(
        run="run-1",
        game="doudizhu",
        algorithm="deep_monte_carlo",
        step=step,
        updates={"landlord": step // 3200, "up": 1},
        weights={"landlord": weights, "up": weights},
        states={"landlord": {"step": np.array(2.0, "f4"), "exp_avg": np.zeros(15, "f4")}},
        counters={"training_seconds": 12.5},
        positions={"0": Position(generation="g", after="17-0", rows={"18-0": 300})},
        random={"landlord": dict(np.random.default_rng(1).bit_generator.state)},
    )  # fmt: skip


def same(left: Checkpoint, right: Checkpoint) -> bool:
    for one, other in ((left.weights, right.weights), (left.states, right.states)):
        assert one.keys() == other.keys()
        for policy in one:
            assert one[policy].keys() == other[policy].keys()
            for name in one[policy]:
                np.testing.assert_array_equal(one[policy][name], other[policy][name])
                assert one[policy][name].dtype == other[policy][name].dtype
    plain = [replace(state, weights={}, states={}) for state in (left, right)]
    return plain[0] == plain[1]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, sample())
    assert path == checkpoint.newest(tmp_path) == tmp_path / "checkpoints" / "step-000000006400"
    assert same(checkpoint.load(path), sample())
    weights = checkpoint.load_policy(path, "up")
    np.testing.assert_array_equal(weights["layer.weight"], sample().weights["up"]["layer.weight"])
    assert sorted(os.listdir(path.parent)) == [path.name]


def test_the_newest_few_are_kept_and_a_step_may_be_saved_again(tmp_path: Path) -> None:
    for step in (100, 200, 300, 300, 400):
        checkpoint.save(tmp_path, sample(step), keep=2)
    names = [path.name for path in checkpoint.available(tmp_path)]
    assert names == ["step-000000000300", "step-000000000400"]


def test_what_a_crash_left_behind_is_ignored_and_swept_up(tmp_path: Path) -> None:
    good = checkpoint.save(tmp_path, sample(100))
    half_written = good.with_name(".step-000000000200.tmp")
    half_written.mkdir()
    (half_written / "manifest.json").write_text("{}")
    half_deleted = good.with_name(".step-000000000050.tmp")
    half_deleted.mkdir()
    assert checkpoint.newest(tmp_path) == good
    checkpoint.save(tmp_path, sample(300))
    assert not half_written.exists()
    assert not half_deleted.exists()


def test_a_crash_while_an_old_one_is_deleted_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: Path) -> None:
        raise KeyboardInterrupt

    checkpoint.save(tmp_path, sample(100), keep=1)
    with monkeypatch.context() as dying:
        dying.setattr(checkpoint.shutil, "rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, sample(200), keep=1)
    assert checkpoint.newest(tmp_path).name == "step-000000000200"
    checkpoint.save(tmp_path, sample(300), keep=1)
    assert os.listdir(tmp_path / "checkpoints") == ["step-000000000300"]


def test_no_checkpoint_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint here yet"):
        checkpoint.newest(tmp_path)
    assert checkpoint.available(tmp_path) == []


@pytest.mark.parametrize("file", ["landlord.weights.safetensors", "landlord.state.safetensors"])
def test_one_wrong_byte_is_found(tmp_path: Path, file: str) -> None:
    path = checkpoint.save(tmp_path, sample())
    data = bytearray((path / file).read_bytes())
    data[-1] ^= 1
    (path / file).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{file}: damaged.*; remove this folder to go back"):
        checkpoint.load(path)


def test_missing_and_cut_files_are_found(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, sample())
    file = path / "up.weights.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load_policy(path, "up")
    file.unlink()
    with pytest.raises(
        CheckpointError, match=r"up.weights.safetensors: cannot be read: No such file"
    ):
        checkpoint.load(path)


def test_a_checkpoint_that_lost_its_manifest_is_not_passed_over(tmp_path: Path) -> None:
    """A run that went on without it would begin anew, and throw away what it had learned."""
    path = checkpoint.save(tmp_path, sample())
    (path / "manifest.json").unlink()
    assert checkpoint.newest(tmp_path) == path
    with pytest.raises(CheckpointError, match=r"no manifest\.json; remove this folder to go back"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "format None"),
        ('{"format": 99}', "format 99, this version reads format 2"),
        ('{"format": 2, "run": 3}', "run: input should be a valid string"),
    ],
)
def test_foreign_manifests_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = checkpoint.save(tmp_path, sample())
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=says) as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, sample())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../secret.safetensors"] = "0"
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="files"):
        checkpoint.load(path)


def test_a_foreign_folder_or_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint: it has no manifest"):
        checkpoint.load(tmp_path)
    path = checkpoint.save(tmp_path, sample())
    with pytest.raises(CheckpointError, match="holds no policy 'nobody'; it has landlord, up"):
        checkpoint.load_policy(path, "nobody")


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5])
def test_a_full_disk_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """The disk is full at the n-th sync; then there is room again."""
    good = checkpoint.save(tmp_path, sample(100), keep=1)
    real, calls = os.fsync, iter(range(1, 100))

    def fsync(handle: int) -> None:
        if next(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CheckpointError, match="step-000000000200: not saved, the disk is full"):
        checkpoint.save(tmp_path, sample(200), keep=1)
    assert checkpoint.newest(tmp_path) == good
    assert same(checkpoint.load(good), sample(100))
    assert checkpoint.save(tmp_path, sample(200), keep=1) == checkpoint.newest(tmp_path)
    assert [path.name for path in good.parent.iterdir()] == ["step-000000000200"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match="not saved: "):
        checkpoint.save(tmp_path, sample())
