"""Prioritised replay against a plain cumulative sum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe_learners.priorities import SumTree, importance_weights, priorities

whole = st.lists(st.integers(0, 9), min_size=1, max_size=70)
"""Whole numbers, whose sums are exact in any order."""


def holding(priority: list[int]) -> SumTree:
    tree = SumTree(len(priority))
    tree[np.arange(len(priority))] = np.array(priority, dtype=np.float64)
    return tree


def place(priority: list[int], point: float) -> int:
    total = 0.0
    for index, share in enumerate(priority):
        total += share
        if point < total:
            return index
    raise AssertionError("the point lies behind the last share")


@settings(max_examples=80, deadline=None)
@given(whole, st.integers(0, 2**32 - 1))
def test_points_lie_where_the_cumulative_sum_says(priority: list[int], seed: int) -> None:
    tree, total = holding(priority), sum(priority)
    assert tree.total == total
    if not total:
        with pytest.raises(ValueError, match="nothing to draw"):
            tree.find(np.zeros(1))
        return
    points = np.random.default_rng(seed).random(20) * total
    points[:10] = np.floor(points[:10])
    expected = [place(priority, point) for point in points.tolist()]
    assert tree.find(points).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(whole, st.lists(st.tuples(st.integers(0, 69), st.integers(0, 9)), max_size=40))
def test_updates_are_those_of_a_list(priority: list[int], changes: list[tuple[int, int]]) -> None:
    tree, expected = holding(priority), list(priority)
    changes = [(index % len(priority), number) for index, number in changes]
    for index, number in changes:
        expected[index] = number
    tree[np.array([index for index, _ in changes], dtype=np.int64)] = np.array(
        [number for _, number in changes], dtype=np.float64
    )
    assert tree[np.arange(len(priority))].tolist() == expected
    assert tree.total == sum(expected)


def test_a_tree_is_a_function_of_its_leaves() -> None:
    random = np.random.default_rng(0)
    worn = SumTree(100)
    for _ in range(200):
        worn[random.integers(0, 100, size=7)] = random.random(7) * 10.0 ** random.integers(-9, 9)
    fresh = SumTree(100)
    fresh[np.arange(100)] = worn[np.arange(100)]
    assert worn.total == fresh.total
    points = random.random(500) * fresh.total
    assert worn.find(points).tolist() == fresh.find(points).tolist()


def test_one_is_drawn_from_every_stratum() -> None:
    priority = [1, 0, 3, 4]
    index, probability = holding(priority).sample(np.random.default_rng(1), 8)
    assert index.tolist() == [0, 2, 2, 2, 3, 3, 3, 3]
    assert probability.tolist() == [priority[i] / 8 for i in index.tolist()]


def test_draws_are_in_proportion() -> None:
    priority, random = [5, 1, 0, 2, 8], np.random.default_rng(2)
    tree = holding(priority)
    counts = sum(np.bincount(tree.sample(random, 3)[0], minlength=5) for _ in range(4000))
    np.testing.assert_allclose(counts / 12000, np.array(priority) / 16, atol=0.02)


def test_nothing_without_a_priority_is_drawn() -> None:
    tree = SumTree(1000)
    tree[np.array([3, 500])] = np.array([1e-300, 0.1])
    beyond = np.array([0.0, 0.1, 0.2, 1e9])
    assert set(tree.find(beyond).tolist()) <= {3, 500}


def test_one_place_and_wrong_ones() -> None:
    tree = SumTree(1)
    tree[np.array([0])] = np.array([2.5])
    assert tree.find(np.array([0.0, 2.4])).tolist() == [0, 0]
    with pytest.raises(ValueError, match="holds nothing"):
        SumTree(0)
    for index in (1, -1):
        with pytest.raises(IndexError, match="outside of 0 to 0"):
            tree[np.array([index])] = np.array([1.0])
    for priority in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="negative or not finite"):
            tree[np.array([0])] = np.array([priority])
    assert tree.total == 2.5


def test_golden_probabilities_and_weights() -> None:
    priority = priorities(np.array([4.0, -1.0, 0.0]), 0.5, least=0.0)
    assert priority.tolist() == [2.0, 1.0, 0.0]
    assert priorities(np.array([0.0]), 0.6).item() > 0.0
    assert priorities(np.array([0.0, 7.0]), 0.0).tolist() == [1.0, 1.0]
    probability = np.array([0.5, 0.25, 0.125])
    weight = importance_weights(probability, 4, 1.0)
    assert weight.tolist() == pytest.approx([0.25, 0.5, 1.0])
    half = importance_weights(probability, 4, 0.5, largest=2.0)
    assert half.tolist() == pytest.approx([2**-1.5, 0.5, 2**-0.5])
    assert importance_weights(probability, 4, 0.0).tolist() == [1.0, 1.0, 1.0]


def test_full_correction_makes_the_mean_that_of_a_uniform_draw() -> None:
    random = np.random.default_rng(3)
    value, priority = random.normal(size=50), random.random(50) + 0.1
    probability = priority / priority.sum()
    weight = importance_weights(probability, 50, 1.0, largest=1.0)
    assert float((probability * weight * value).sum()) == pytest.approx(float(value.mean()))
