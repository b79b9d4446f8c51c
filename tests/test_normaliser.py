"""Running moments, against numpy's; and observations as features, on both sides."""

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym

from troupe.errors import UserError
from troupe.policies import Spaces
from troupe.policies.inputs import HostInputs, Inputs, columns_of
from troupe.policies.normaliser import LIMIT, Moments

RANDOM = np.random.default_rng(1)
VALUES = RANDOM.normal([5.0, -300.0, 0.01], [2.0, 50.0, 0.001], (1000, 3)).astype(np.float32)


def alone(tensor):
    return tensor


def moments_of(batches):
    moments = Moments(VALUES.shape[1])
    for batch in batches:
        moments.observe(torch.from_numpy(batch), alone)
    return moments


def agree(moments, values):
    mean, deviation = moments.mean_and_deviation()
    np.testing.assert_allclose(mean, values.mean(0, np.float64), rtol=1e-6)
    expected = np.sqrt(values.var(0, np.float64) + 1e-8)
    np.testing.assert_allclose(deviation, expected, rtol=1e-6)


def test_moments_are_those_of_all_rows_together():
    agree(moments_of([VALUES]), VALUES)
    agree(moments_of([VALUES[:1], VALUES[1:7], VALUES[7:7], VALUES[7:]]), VALUES)


def test_neither_batches_nor_their_order_matter():
    parts = np.array_split(VALUES, [3, 100, 550])
    forth, back = moments_of(parts), moments_of(parts[::-1])
    for name, buffer in forth.state_dict().items():
        torch.testing.assert_close(buffer, back.state_dict()[name], rtol=1e-10, atol=1e-12)


def test_ranks_merge_what_all_of_them_saw():
    """Two ranks, one after the other: sums of the first pass are known in the second."""
    halves = torch.from_numpy(VALUES).chunk(2)
    moments = Moments(3)
    mean = torch.from_numpy(VALUES).double().mean(0)
    sums = [
        torch.tensor(1000.0, dtype=torch.float64),
        halves[0].double().sum(0) + halves[1].double().sum(0),
        sum(((half.double() - mean) ** 2).sum(0) for half in halves),
    ]
    given = iter(sums)
    moments.observe(halves[0], lambda _: next(given))
    agree(moments, VALUES)


def test_nothing_seen_leaves_numbers_as_they_are():
    moments = moments_of([VALUES[:0]])
    assert moments.count == 0
    values = torch.tensor([[1.0, -2.0, 1000.0]])
    assert moments.normalise(values).tolist() == [[1.0, -2.0, LIMIT]]


def test_normal_numbers_have_mean_0_and_deviation_1_within_limits():
    moments = moments_of([VALUES])
    normal = moments.normalise(torch.from_numpy(VALUES))
    assert normal.dtype == torch.float32
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(normal[:, :2].std(0, correction=0), 1, atol=1e-4)
    far = torch.tensor([[1e9, -1e9, 0.01]])
    assert moments.normalise(far)[0, :2].tolist() == [LIMIT, -LIMIT]


def test_one_value_over_and_over_is_nothing():
    moments = moments_of([np.full((10, 3), 7.0, np.float32)])
    assert moments.normalise(torch.full((2, 3), 7.0)).tolist() == [[0.0] * 3] * 2


SPACES = Spaces(
    {
        "kind": gym.Discrete(3),
        "position": gym.Box(-10, 10, (2, 2)),
        "bits": gym.MultiBinary(10),
        "bytes": gym.Box(0, 255, (3,), np.uint8),
        "several": gym.MultiDiscrete([2, 4]),
        "action_mask": gym.MultiBinary(4),
        "far": gym.Box(-np.inf, np.inf, ()),
    },
    gym.Discrete(4),
)
ROWS = 6


def columns():
    random = np.random.default_rng(2)
    bits = random.integers(0, 2, (ROWS, 10), np.uint8)
    held = {
        "kind": random.integers(0, 3, ROWS),
        "position": random.normal(0, 3, (ROWS, 2, 2)).astype(np.float32),
        "bits": np.packbits(bits, axis=1, bitorder="little"),
        "bytes": random.integers(0, 256, (ROWS, 3), np.uint8),
        "several": np.stack([random.integers(0, n, ROWS) for n in (2, 4)], 1),
        "action_mask": np.full((ROWS, 1), 15, np.uint8),
        "far": random.normal(100, 30, ROWS).astype(np.float32),
    }
    return held, bits


@pytest.mark.parametrize("normalise", [False, True])
def test_every_kind_of_column_is_a_feature_on_both_sides(normalise):
    held, bits = columns()
    inputs = Inputs(SPACES, normalise=normalise)
    tensors = {name: torch.from_numpy(column) for name, column in held.items()}
    inputs.observe(tensors, alone)
    numbers = np.concatenate(
        [held["position"].reshape(ROWS, 4), held["bytes"] / 255, held["far"][:, None]], 1
    )
    if normalise:
        numbers = (numbers - numbers.mean(0)) / np.sqrt(numbers.var(0) + 1e-8)
    eye = np.eye(10)
    one_hot = [
        eye[held["kind"], :3],
        eye[held["several"][:, 0], :2],
        eye[held["several"][:, 1], :4],
    ]
    expected = np.concatenate([numbers, *one_hot, bits], 1)
    features = inputs.features(tensors)
    assert features.shape == (ROWS, inputs.width)
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features, expected, atol=1e-4)
    host = HostInputs(inputs).features(held)
    assert host.dtype == np.float32
    np.testing.assert_allclose(host, features, atol=1e-6)


def test_a_single_column_is_not_copied():
    inputs = Inputs(Spaces({"x": gym.Box(-1, 1, (3,))}, gym.Discrete(2)), normalise=False)
    x = np.zeros((2, 3), np.float32)
    assert HostInputs(inputs).features({"x": x}) is x


def test_images_are_what_convolutions_can_read():
    for shape, kind in (
        ((84, 84, 4), "image"),
        ((4, 84, 84), "image"),
        ((36, 40, 3), "image"),
        ((35, 40, 3), "numbers"),
        ((84, 84), "numbers"),
    ):
        space = gym.Box(0, 255, shape, np.uint8)
        assert columns_of(Spaces({"x": space}, gym.Discrete(2)))[0].kind == kind


def test_what_no_network_reads_is_refused():
    with pytest.raises(UserError, match=r"observation\.words"):
        columns_of(Spaces({"words": gym.Text(3)}, gym.Discrete(2)))
    with pytest.raises(UserError, match="action_mask"):
        columns_of(Spaces({"action_mask": gym.MultiBinary(2)}, gym.Discrete(2)))
