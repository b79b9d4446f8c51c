"""Aggregation against plain sums, however the batch is divided."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from troupe_learners.aggregation import (
    constant_weights,
    sequence_weights,
    token_weights,
    weighted_sum,
)

SEQUENCES = [[1.0, 2.0, 3.0, 6.0], [10.0], [5.0, 7.0]]
MASKS = [[False, True, True, True], [False], [True, True]]
KINDS = ["token", "sequence", "constant"]


def plain(kind: str, terms: list[list[float]], masks: list[list[bool]]) -> float:
    kept = [
        [term for term, held in zip(*pair, strict=True) if held]
        for pair in zip(terms, masks, strict=True)
    ]
    if kind == "token":
        tokens = list(itertools.chain.from_iterable(kept))
        return sum(tokens) / len(tokens)
    if kind == "sequence":
        return sum(sum(part) / len(part) if part else 0.0 for part in kept) / len(kept)
    return sum(sum(part) / 8 for part in kept) / len(kept)


def weights(kind: str, mask: Tensor, length: Tensor, tokens: int, sequences: int) -> Tensor:
    match kind:
        case "token":
            return token_weights(mask, tokens)
        case "sequence":
            return sequence_weights(mask, length, sequences)
        case _:
            return constant_weights(mask, 8, sequences)


def flat(parts: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(list(itertools.chain.from_iterable(parts)))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("token", 23 / 5), ("sequence", (11 / 3 + 0 + 6) / 3), ("constant", 23 / 24)],
)
def test_golden(kind: str, expected: float) -> None:
    mask = flat(MASKS)
    weight = weights(kind, mask, torch.tensor([4, 1, 2]), 5, 3)
    assert plain(kind, SEQUENCES, MASKS) == pytest.approx(expected)
    assert weighted_sum(flat(SEQUENCES), weight).item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_any_division_adds_up_to_the_whole(kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    length = [int(n) for n in random.integers(1, 7, size=6)]
    parts = [random.normal(size=n).tolist() for n in length]
    masks = [random.choice([True, False], size=n).tolist() for n in length]
    tokens = sum(sum(mask) for mask in masks)
    expected = plain(kind, parts, masks)
    scale = torch.tensor(1.0, requires_grad=True)
    for cuts in ([0, 6], [0, 2, 6], [0, 1, 3, 4, 6]):
        total = torch.zeros(())
        for start, end in itertools.pairwise(cuts):
            mask = flat(masks[start:end])
            weight = weights(kind, mask, torch.tensor(length[start:end]), tokens, 6)
            total = total + weighted_sum(scale * flat(parts[start:end]), weight)
        assert total.item() == pytest.approx(expected, abs=1e-6)
        (gradient,) = torch.autograd.grad(total, scale)
        assert gradient.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str) -> None:
    padded = [part + [99.0] * (9 - len(part)) for part in SEQUENCES]
    masks = [mask + [False] * (9 - len(mask)) for mask in MASKS]
    weight = weights(kind, flat(masks), torch.tensor([9, 9, 9]), 5, 3)
    got = weighted_sum(flat(padded), weight).item()
    assert got == pytest.approx(plain(kind, SEQUENCES, MASKS))


def test_weights_of_a_batch_may_be_divided_within_a_sequence() -> None:
    mask = flat(MASKS)
    weight = sequence_weights(mask, torch.tensor([4, 1, 2]), 3)
    term = flat(SEQUENCES)
    parts = weighted_sum(term[:2], weight[:2]) + weighted_sum(term[2:], weight[2:])
    assert parts.item() == pytest.approx(plain("sequence", SEQUENCES, MASKS))


def test_averaged_ranks_are_multiplied_by_their_number() -> None:
    mask = flat(MASKS)
    weight, term = token_weights(mask, torch.tensor(5.0)), flat(SEQUENCES)
    ranks = [2 * weighted_sum(term[:4], weight[:4]), 2 * weighted_sum(term[4:], weight[4:])]
    assert sum(ranks).item() / 2 == pytest.approx(23 / 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_a_step_of_its_own_is_worth_nothing(kind: str) -> None:
    weight = weights(kind, torch.zeros(3, dtype=torch.bool), torch.tensor([3]), 0, 0)
    term = torch.tensor([torch.nan, torch.inf, 1.0])
    assert weighted_sum(term, weight).item() == 0.0
