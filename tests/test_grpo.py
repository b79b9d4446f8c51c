"""GRPO and its relatives: plain references of their losses, invariances, and runs that learn."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from text_loop import draw, fresh, gradient, learner, moved, roles, sampled
from texts import WORDS, batch, block, llama, picked, plain

from troupe.config import parse
from troupe.errors import TroupeError, UserError
from troupe.language.settings import LanguageSettings
from troupe.policies import Spaces
from troupe.policies.language import LanguagePolicy
from troupe_learners.algorithms import Batch
from troupe_learners.batches import shuffled_fragments, split
from troupe_learners.grpo import RELATIVES, Algorithm, Config, defaults

REWARDS = ((1.0, 0.0, 0.5), (0.0, 1.0))
ALL = sorted(RELATIVES)
SEVERAL = {"epochs": 2}


def algorithm(**options: object) -> Algorithm:
    longest = {"longest": 8} if options.get("relative") == "dr_grpo" else {}
    return Algorithm(parse(Config, {**longest, **options}))


@torch.no_grad()
def prepared(own: Algorithm, policy: LanguagePolicy, of: Batch) -> Batch:
    return own.prepare(of, roles(policy))


def texts(noise: float = 0.2, **options: object) -> tuple[LanguagePolicy, Batch]:
    policy = learner(**options)
    return policy, sampled(policy, batch(block(rewards=REWARDS), block(seed=1, rewards=REWARDS)), noise)  # fmt: skip


# Losses


@pytest.mark.parametrize("relative", ALL)
def test_losses_and_gradients_do_not_change_with_the_division_or_the_layout(relative: str) -> None:
    options = {"relative": relative, "kl": {"coefficient": 0.1}, "entropy": 0.01, **SEVERAL}
    own = algorithm(**options)
    policy, of = texts()
    ready = prepared(own, policy, of)
    expected = gradient(own, moved(policy), [ready], ready)
    rowwise = LanguagePolicy(fresh(policy.model), LanguageSettings(packing="rows"))
    ways = [
        (policy, list(split(ready, 9, whole=True))),
        (policy, list(split(ready, 1, whole=True))),
        # Two ranks: what each has, with the denominators of both.
        (policy, list(shuffled_fragments(ready, 2, np.random.default_rng(0), together=True))),
        (rowwise, [ready]),
    ]
    for other, parts in ways:
        loss, metrics, grad = gradient(own, other, parts, ready)
        assert loss == pytest.approx(expected[0], abs=1e-5)
        assert metrics == pytest.approx(expected[1], abs=1e-5)
        scale = expected[2].abs().max().item()
        torch.testing.assert_close(grad, expected[2], atol=1e-4 * scale, rtol=1e-3)


@pytest.mark.parametrize("relative", ["grpo", "dr_grpo", "dapo"])
def test_losses_are_those_of_a_plain_padded_implementation(relative: str) -> None:
    options = {"relative": relative, "kl": {"coefficient": 0.1}}
    own = algorithm(**options)
    policy, of = texts()
    ready = prepared(own, policy, of)
    assert policy.reference is not None
    reference = fresh(policy.reference)
    loss, _, _ = gradient(own, moved(policy), [ready], ready)

    low, high = RELATIVES[relative].clip
    length = of.fragment["length"].tolist()
    new = picked(plain(fresh(policy.model), of), of).split(length)
    ref = picked(plain(reference, of), of).split(length)
    mu = of.step["log_prob"].split(length)
    rewards = np.array([r for group in (*REWARDS, *REWARDS) for r in group])
    sums, means = [], []
    for start, end in itertools.pairwise([0, 3, 5, 8, 10]):
        deviation = rewards[start:end] - rewards[start:end].mean()
        if relative != "dr_grpo":
            deviation = deviation / (rewards[start:end].std(ddof=1) + 1e-6)
        for i, advantage in zip(range(start, end), deviation, strict=True):
            ratio = (new[i] - mu[i]).exp()
            clipped = ratio.clamp(1 - low, 1 + high)
            term = -torch.minimum(ratio * float(advantage), clipped * float(advantage))
            log = ref[i] - new[i]
            term = term + 0.1 * ratio * (log.exp() - 1 - log)
            sums.append(term.sum().item())
            means.append(term.mean().item())
    expected = {
        "grpo": np.mean(means),
        "dr_grpo": np.sum(sums) / (len(sums) * 8),
        "dapo": np.sum(sums) / of.steps,
    }[relative]
    assert loss == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_first_loss_of_grpo_is_nothing_and_its_ratio_one() -> None:
    policy, of = texts(noise=0.0)
    for options in ({}, SEVERAL):
        own = algorithm(**options)
        ready = prepared(own, policy, of)
        loss, metrics, grad = gradient(own, policy, [ready], ready)
        assert loss == pytest.approx(0.0, abs=1e-5)
        assert metrics["log_prob_gap"] == pytest.approx(0.0, abs=1e-5)
        assert metrics["clip_fraction"] == 0.0
        assert metrics["approx_kl"] == pytest.approx(0.0, abs=1e-5)
        assert metrics["entropy"] > 0.0
        assert grad.abs().max() > 1e-3


# Stale data


def test_one_update_is_clipped_against_the_sampler_and_several_against_the_learner() -> None:
    policy, of = texts()
    once = prepared(algorithm(), policy, of)
    assert once.step["old_log_prob"].tolist() == of.step["log_prob"].tolist()
    assert "weight" not in once.step
    several = prepared(algorithm(minibatches=2), policy, of)
    own = policy.evaluate(of.evaluated(), {"log_prob"})["log_prob"].detach()
    torch.testing.assert_close(several.step["old_log_prob"], own)
    ratio = (own - of.step["log_prob"]).exp()
    torch.testing.assert_close(several.step["weight"], ratio)  # all within the trust
    naive = prepared(algorithm(correction="none", **SEVERAL), policy, of)
    assert "weight" not in naive.step


def test_rejected_tokens_teach_nothing_and_stay_in_the_denominators() -> None:
    policy, of = texts()
    far = of.step["log_prob"].clone()
    far[3] -= 3.0
    of = of.with_steps({"log_prob": far})
    own = algorithm(relative="dapo", **SEVERAL)
    ready = prepared(own, policy, of)
    assert ready.step["weight"][3] == 0.0
    loss, metrics, _ = gradient(own, policy, [ready], ready)
    assert metrics["rejected"] == pytest.approx(1 / of.steps)
    kept = ready.step["weight"] * ready.step["advantage"]
    assert loss == pytest.approx(-kept.sum().item() / of.steps, abs=1e-5)
    cut = prepared(algorithm(correction="truncate", **SEVERAL), policy, of)
    assert cut.step["weight"][3] == 2.0


# Truncated completions


@pytest.mark.parametrize("relative", ALL)
def test_truncated_completions_are_kept_or_left_out_of_the_sum_alone(relative: str) -> None:
    policy = learner()
    of = sampled(policy, batch(block(rewards=REWARDS, truncated=(1, 4))))
    losses = {}
    for what in ("keep", "mask"):
        own = algorithm(relative=relative, truncated=what, epochs=2)
        ready = prepared(own, policy, of)
        ready = ready.with_steps({"advantage": torch.ones(of.steps)})
        loss = gradient(own, moved(policy, 0.0), [ready], ready)
        losses[what] = loss[2]
    assert not torch.allclose(losses["keep"], losses["mask"])
    own = algorithm(relative="gspo", truncated="mask")
    ready = prepared(own, policy, of).with_steps({"advantage": torch.ones(of.steps)})
    assert gradient(own, policy, [ready], ready)[0] == pytest.approx(-3 / 5, abs=1e-5)


# Divergence from the reference


def test_a_divergence_is_in_the_loss_or_in_the_reward() -> None:
    policy, of = texts()
    moved(policy)
    kl = {"coefficient": 0.1}
    free = prepared(algorithm(advantage="centred"), policy, of)
    lost = prepared(algorithm(advantage="centred", kl=kl), policy, of)
    assert free.step["advantage"].tolist() == lost.step["advantage"].tolist()
    paid = prepared(algorithm(advantage="centred", kl={**kl, "place": "reward"}), policy, of)
    length = of.fragment["length"].tolist()
    gap = of.step["log_prob"] - paid.step["reference"]
    rewards = [
        own.sum() - 0.1 * part.sum()
        for own, part in zip(of.step["reward"].split(length), gap.split(length), strict=True)
    ]
    first = torch.stack(rewards[:3])
    expected = (first - first.mean()).repeat_interleave(torch.tensor(length[:3]))
    torch.testing.assert_close(paid.step["advantage"][: len(expected)], expected)
    in_loss = algorithm(kl={**kl, "place": "loss"})
    in_reward = algorithm(kl={**kl, "place": "reward"})
    far = prepared(in_loss, policy, of).with_steps({"advantage": torch.zeros(of.steps)})
    assert gradient(in_loss, policy, [far], far)[0] > 0.0
    assert gradient(in_reward, policy, [far], far)[0] == 0.0


def test_k1_is_no_loss() -> None:
    with pytest.raises(UserError, match="estimator"):
        parse(Config, {"kl": {"coefficient": 0.1, "estimator": "k1"}})


def test_a_divergence_in_the_loss_is_weighted_as_if_sampled_from_the_policy() -> None:
    policy, of = texts(noise=0.5)
    moved(policy)
    for estimator in ("k2", "k3"):
        own = algorithm(relative="dapo", kl={"coefficient": 1.0, "estimator": estimator})
        ready = prepared(own, policy, of).with_steps({"advantage": torch.zeros(of.steps)})
        loss, metrics, _ = gradient(own, policy, [ready], ready)
        new = policy.evaluate(of.evaluated(), {"log_prob"})["log_prob"].detach()
        log = ready.step["reference"] - new
        term = {"k2": 0.5 * log.square(), "k3": log.exp() - 1 - log}[estimator]
        expected = ((new - of.step["log_prob"]).exp() * term).mean().item()
        assert loss == pytest.approx(expected, rel=1e-3)
        assert metrics["kl"] == pytest.approx((log.exp() - 1 - log).mean().item(), rel=1e-3)


# What is refused, and what is told


def test_a_group_of_one_is_refused_where_groups_are_compared() -> None:
    alone = block(lengths=((3, 1), (4,)))
    with pytest.raises(TroupeError, match="group of one"):
        algorithm().credit(alone)
    assert algorithm(relative="reinforce++").credit(alone) == {}
    assert algorithm().credit(block()) == {}


def test_a_reward_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(TroupeError, match="not a number"):
        algorithm().credit(block(rewards=((np.nan, 0.0, 1.0), (0.0, 1.0))))


def test_dr_grpo_needs_the_most_tokens_there_may_be() -> None:
    with pytest.raises(UserError, match=r"algorithm\.longest: missing"):
        Algorithm(Config(relative="dr_grpo"))


def test_what_a_job_of_it_has() -> None:
    seen = Spaces({}, torch_free_space())
    assert defaults(Config(), seen)["network"] == {"kind": "language", "language": {}}
    settings = parse(Config, {"kl": {"coefficient": 0.1}})
    assert defaults(settings, seen)["network"] == {"kind": "language", "language": {"reference": True}}  # fmt: skip
    with pytest.raises(UserError, match="learns from text"):
        defaults(Config(), replace(seen, observation={"x": torch_free_space()}))


def torch_free_space() -> object:
    from gymnasium import spaces

    return spaces.Discrete(WORDS)


def test_every_update_tells_what_the_batch_was_like() -> None:
    policy = learner()
    of = batch(block(rewards=((1.0, 0.0, 0.5), (1.0, 1.0)), truncated=(1,)))
    column = of.about["reward/exact"].clone()
    column[0] = torch.nan
    of = replace(of, about={**of.about, "reward/exact": column})
    told = algorithm().after(of, roles(policy))
    assert {name: value.item() for name, value in told.items()} == pytest.approx(
        {
            "reward": 3.5 / 5,
            "completion_length": 16 / 5,
            "truncated": 1 / 5,
            "zero_variance": 1 / 2,
            "reward/exact": 2.5 / 4,
        }
    )
    ready = prepared(algorithm(), policy, of)
    _, metrics, _ = gradient(algorithm(), policy, [ready], ready)
    assert {"log_prob_gap", "entropy", "clip_fraction", "approx_kl"} <= metrics.keys()


def test_groups_of_several_blocks_are_told_apart_and_keep_their_prompts() -> None:
    one, two = block(seed=1), block(seed=2, prompts=(4,), lengths=((2, 2),))
    empty = replace(block(lengths=(), prompts=()), action={}, context={}, about={})
    of = batch(empty, one, two)
    assert of.fragment["group"].tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert of.about["prompt"].tolist() == [*[[0, 3]] * 3, *[[3, 8]] * 2, *[[8, 12]] * 2]
    assert of.context["token"].tolist() == [*one.context["token"], *two.context["token"]]


def test_minibatches_are_of_whole_groups() -> None:
    of = batch(*(block(seed=seed) for seed in range(3)))
    parts = list(shuffled_fragments(of, 4, np.random.default_rng(1), together=True))
    assert len(parts) == 4
    held = [sorted(set(part.fragment["group"].tolist())) for part in parts]
    assert sorted(itertools.chain.from_iterable(held)) == list(range(6))
    assert all(part.context is of.context for part in parts)
    one = next(p for p in parts if 2 in p.fragment["group"].tolist())
    place = one.fragment["group"].tolist().index(2)
    whole = of.fragment["group"].tolist().index(2)
    assert one.about["prompt"][place].tolist() == of.about["prompt"][whole].tolist()


def test_micro_batches_count_prompts_once_a_group() -> None:
    of = batch(block(prompts=(3, 5), lengths=((3, 1, 2), (4, 6))))
    assert len(list(split(of, 24, whole=True))) == 1
    parts = list(split(of, 23, whole=True))
    assert [part.fragment["length"].tolist() for part in parts] == [[3, 1, 2, 4], [6]]


# Learning


@pytest.mark.parametrize("relative", ALL)
def test_it_learns(relative: str) -> None:
    torch.manual_seed(0)
    options = {"minibatches": 2} if relative in ("grpo", "gspo") else {}
    own = algorithm(relative=relative, **options)
    policy = LanguagePolicy(llama(), LanguageSettings())
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    rewards = []
    for update in range(40):
        of = draw(policy, update, update)
        rewards.append(of.step["reward"].sum().item() / 32)
        ready = prepared(own, policy, of)
        for part in shuffled_fragments(ready, own.plan.minibatches or 1, np.random.default_rng(update), together=True):  # fmt: skip
            gradient(own, policy, [part], part)
            optimizer.step()
    assert np.mean(rewards[:3]) < 0.5
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.25, rewards
