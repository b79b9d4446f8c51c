"""PPO on text: the file that serves control, with a step for each sampled token."""

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym
from text_loop import draw, gradient, learner, moved, roles, sampled
from texts import WORDS, batch, block, llama

from troupe.config import parse
from troupe.errors import UserError
from troupe.language.settings import LanguageSettings
from troupe.policies import Spaces
from troupe.policies.language import LanguagePolicy
from troupe_learners.algorithms import Batch
from troupe_learners.batches import shuffled_fragments, split
from troupe_learners.ppo import Algorithm, Config, defaults

TEXT = Spaces({}, gym.Discrete(WORDS))
OF_TEXT = {"gamma": 1.0, "gae_lambda": 1.0, "normalise": "none"}


def algorithm(**options: object) -> Algorithm:
    return Algorithm(parse(Config, {**OF_TEXT, **options}))


@torch.no_grad()
def prepared(own: Algorithm, policy: LanguagePolicy, of: Batch) -> Batch:
    return own.prepare(of, roles(policy))


def valued(policy: LanguagePolicy) -> LanguagePolicy:
    """With a critic that says something."""
    assert policy.value is not None
    torch.nn.init.normal_(policy.value.weight, generator=torch.Generator().manual_seed(5))
    return policy


@pytest.mark.parametrize("critic", ["head", "model"])
def test_returns_are_the_reward_of_the_completion_before_whitening(critic: str) -> None:
    policy = valued(learner(value=critic))
    of = sampled(policy, batch(block(rewards=((1.0, 0.0, 0.5), (0.0, 1.0)), truncated=(4,))))
    ready = prepared(algorithm(), policy, of)
    length = of.fragment["length"]
    expected = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0]).repeat_interleave(length)
    torch.testing.assert_close(ready.step["target"], expected)
    torch.testing.assert_close(ready.step["advantage"], expected - ready.step["value"])
    assert ready.step["value"].abs().max() > 0.1
    whitened = prepared(algorithm(normalise="batch"), policy, of)
    torch.testing.assert_close(whitened.step["target"], expected)


def test_a_reference_is_paid_for_token_by_token() -> None:
    policy = moved(valued(learner(value="head")))
    of = sampled(policy, batch(), noise=0.3)
    free, paid = (prepared(algorithm(reference_kl=c), policy, of) for c in (0.0, 0.1))
    old = paid.step["old_log_prob"]
    cost = 0.1 * (old - paid.step["reference"])
    to_come = [
        part.flip(0).cumsum(0).flip(0) for part in cost.split(of.fragment["length"].tolist())
    ]
    torch.testing.assert_close(
        free.step["target"] - paid.step["target"], torch.cat(to_come), atol=1e-5, rtol=1e-4
    )


def test_losses_and_gradients_do_not_change_with_the_division() -> None:
    own = algorithm(reference_kl=0.1, entropy=0.01)
    policy = valued(learner(value="head"))
    of = sampled(policy, batch(block(), block(seed=1)), noise=0.2)
    ready = prepared(own, policy, of)
    expected = gradient(own, moved(policy), [ready], ready)
    for parts in (
        list(split(ready, 9, whole=True)),
        list(shuffled_fragments(ready, 2, np.random.default_rng(0), together=True)),
    ):
        loss, metrics, grad = gradient(own, policy, parts, ready)
        assert loss == pytest.approx(expected[0], abs=1e-5)
        assert metrics == pytest.approx(expected[1], abs=1e-5)
        assert {"log_prob_gap", "kl", "entropy", "clip_fraction"} <= metrics.keys()
        scale = expected[2].abs().max().item()
        torch.testing.assert_close(grad, expected[2], atol=1e-4 * scale, rtol=1e-3)


def test_what_a_job_of_text_has() -> None:
    network = {"kind": "language", "language": {"value": "head", "reference": False}}
    assert defaults(Config(), TEXT) == {"network": network}
    paid = defaults(parse(Config, {"reference_kl": 0.1}), TEXT)
    assert paid == {"network": {"kind": "language", "language": {"value": "head", "reference": True}}}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "seen", "says"),
    [
        ({"objective": "penalty"}, TEXT, "objective: penalty"),
        ({"magnet": {"coefficient": 0.1}}, TEXT, "magnet"),
        ({"reference_kl": 0.1}, Spaces({"x": gym.Box(0, 1)}, gym.Discrete(2)), "reference_kl"),
    ],
)
def test_what_does_not_go_with_what_is_seen(options: object, seen: Spaces, says: str) -> None:
    with pytest.raises(UserError, match=f"algorithm.{says}"):
        defaults(parse(Config, options), seen)


def test_it_learns() -> None:
    own = algorithm(epochs=2, minibatches=2, normalise="batch")
    policy = LanguagePolicy(llama(), LanguageSettings(value="head"))
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    rewards = []
    for update in range(25):
        of = draw(policy, update, update)
        rewards.append(of.step["reward"].sum().item() / 32)
        ready = prepared(own, policy, of)
        for epoch in range(2):
            random = np.random.default_rng([update, epoch])
            for part in shuffled_fragments(ready, 2, random, together=True):
                gradient(own, policy, [part], part)
                optimizer.step()
        told = own.after(ready, roles(policy))
        assert {"reward", "explained_variance", "completion_length"} <= told.keys()
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.25, rewards
