"""Supervised fine-tuning against cross entropy, and a model that learns a text by heart."""

import pytest
import torch
from gymnasium import spaces as gym
from text_loop import fresh, gradient, learner, roles
from texts import WORDS, batch, block, picked, plain

from troupe.config import parse
from troupe.errors import UserError
from troupe.policies import Spaces
from troupe_learners.batches import split
from troupe_learners.sft import Algorithm, Config, defaults


@pytest.mark.parametrize("mean", ["token", "sequence"])
def test_the_loss_is_cross_entropy_however_a_batch_is_divided(mean: str) -> None:
    own, policy = Algorithm(parse(Config, {"mean": mean})), learner()
    of = own.prepare(batch(block(), block(seed=1)), roles(policy))
    log = picked(plain(fresh(policy.model), of), of)
    parts = [part.mean() for part in log.split(of.fragment["length"].tolist())]
    expected = -log.mean() if mean == "token" else -torch.stack(parts).mean()
    for limit in (None, 9):
        loss, metrics, _ = gradient(own, policy, list(split(of, limit, whole=True)), of)
        assert loss == pytest.approx(expected.item(), rel=1e-4)
        assert metrics["log_prob"] == pytest.approx(log.mean().item(), rel=1e-4)


def test_a_text_is_learned_by_heart() -> None:
    own, policy, of = Algorithm(Config()), learner(), batch()
    optimizer = torch.optim.Adam(policy.group("all"), lr=0.02)
    losses = []
    for _ in range(60):
        losses.append(gradient(own, policy, [of], of)[0])
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_it_is_of_text_alone() -> None:
    assert defaults(Config(), Spaces({}, gym.Discrete(WORDS)))["network"] == {"kind": "language", "language": {}}  # fmt: skip
    with pytest.raises(UserError, match="text alone"):
        defaults(Config(), Spaces({"x": gym.Box(0, 1)}, gym.Discrete(2)))
