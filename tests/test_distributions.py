"""Distributions over actions, against PyTorch's own; and what actors draw, against both."""

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym
from torch import distributions as reference

from troupe.errors import TroupeError, UserError
from troupe.policies import Spaces
from troupe.policies.distributions import (
    Bernoulli,
    Categorical,
    Gaussian,
    MultiCategorical,
    distribution_of,
)
from troupe.policies.drawing import drawing_of

SEEN = {"observation": gym.Box(-1, 1, (3,))}
STEPS = 40


def outputs_of(width, seed=0):
    return torch.randn(STEPS, width, generator=torch.Generator().manual_seed(seed)) * 2


def mask_of(width):
    """Some legal actions in every row; in the first only the last, in the second all."""
    mask = torch.rand(STEPS, width, generator=torch.Generator().manual_seed(5)) < 0.5
    mask[:, -1] |= ~mask.any(1)
    mask[0], mask[0, -1] = False, True
    mask[1] = True
    return mask


def split(tensor, counts):
    return torch.split(tensor, counts, 1)


def masked(outputs, mask):
    return outputs if mask is None else outputs.masked_fill(~mask, -torch.inf)


def close(mine, theirs):
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_mask", [False, True])
def test_a_choice(with_mask):
    mask = mask_of(5) if with_mask else None
    mine, outputs, others = Categorical(5), outputs_of(5), outputs_of(5, 1)
    p, q = mine.parameters(outputs, mask), mine.parameters(others, mask)
    theirs = reference.Categorical(logits=masked(outputs, mask), validate_args=False)
    action = theirs.sample()
    close(mine.log_prob(p, action), theirs.log_prob(action))
    close(p.exp(), theirs.probs)
    logs = theirs.probs.log().masked_fill(theirs.probs == 0, 0.0)
    close(mine.entropy(p), -(theirs.probs * logs).sum(1))
    other = torch.softmax(masked(others, mask), 1)
    ratio = (theirs.probs / other).log().masked_fill(theirs.probs == 0, 0.0)
    close(mine.kl(p, q), (theirs.probs * ratio).sum(1))
    assert (mine.kl(p, q) > -1e-6).all()
    legal = torch.ones(STEPS, 5) if mask is None else mask.float()
    close(mine.uniform(p).exp(), legal / legal.sum(1, keepdim=True))
    close(mine.entropy(mine.uniform(p)), legal.sum(1).log())


def test_gradients_are_finite_and_pass_illegal_actions_by():
    mask = mask_of(5)
    mine, outputs = Categorical(5), outputs_of(5).requires_grad_()
    p = mine.parameters(outputs, mask)
    total = 1e3 * (mine.entropy(p) + mine.kl(p, mine.uniform(p)) + p.gather(1, p.argmax(1, True)))
    total.sum().backward()
    assert torch.isfinite(outputs.grad).all()
    assert (outputs.grad[~mask] == 0).all()
    assert outputs.grad[1].abs().min() > 0


def test_several_choices():
    counts = [3, 1, 4]
    mine, outputs, others = MultiCategorical(counts), outputs_of(8), outputs_of(8, 1)
    p, q = mine.parameters(outputs, None), mine.parameters(others, None)
    theirs = [reference.Categorical(logits=part) for part in split(outputs, counts)]
    qs = [reference.Categorical(logits=part) for part in split(others, counts)]
    action = torch.stack([part.sample() for part in theirs], 1)
    each = [part.log_prob(column) for part, column in zip(theirs, action.T, strict=True)]
    close(mine.log_prob(p, action), sum(each))
    close(mine.entropy(p), sum(part.entropy() for part in theirs))
    pairs = zip(theirs, qs, strict=True)
    close(mine.kl(p, q), sum(reference.kl_divergence(*pair) for pair in pairs))
    close(mine.entropy(mine.uniform(p)), torch.full((STEPS,), 12.0).log())


def test_several_choices_are_masked_each():
    mask = torch.tensor([[True, False, True, False, False, True]]).expand(STEPS, -1)
    mine = MultiCategorical([3, 3])
    p = mine.parameters(outputs_of(6), mask)
    close(p.exp().sum(1), torch.full((STEPS,), 2.0))
    assert (p[~mask] == -torch.inf).all()
    close(mine.entropy(mine.uniform(p)), torch.full((STEPS,), 2.0).log())


def test_bits():
    mine, outputs, others = Bernoulli(11), outputs_of(11), outputs_of(11, 1)
    theirs, other = reference.Bernoulli(logits=outputs), reference.Bernoulli(logits=others)
    bits = theirs.sample()
    packed = np.packbits(bits.numpy().astype(np.uint8), axis=1, bitorder="little")
    p, q = mine.parameters(outputs, None), mine.parameters(others, None)
    close(mine.log_prob(p, torch.from_numpy(packed)), theirs.log_prob(bits).sum(1))
    close(mine.entropy(p), theirs.entropy().sum(1))
    close(mine.kl(p, q), reference.kl_divergence(theirs, other).sum(1))
    close(mine.entropy(mine.uniform(p)), torch.full((STEPS,), 11 * np.log(2)).float())


def test_numbers():
    mine, outputs, others = Gaussian(3), outputs_of(6), outputs_of(6, 1)

    def normal(parameters):
        return reference.Normal(parameters[:, :3], parameters[:, 3:].exp())

    theirs, action = normal(outputs), normal(outputs).sample()
    p, q = mine.parameters(outputs, None), mine.parameters(others, None)
    close(mine.log_prob(p, action), theirs.log_prob(action).sum(1))
    close(mine.entropy(p), theirs.entropy().sum(1))
    expected = reference.kl_divergence(theirs, normal(others)).sum(1)
    torch.testing.assert_close(mine.kl(p, q), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="uniform"):
        mine.uniform(p)


@pytest.mark.parametrize(
    "distribution", [Categorical(5), MultiCategorical([2, 3]), Bernoulli(5), Gaussian(3)]
)
def test_an_actor_draws_what_the_learner_scores(distribution):
    outputs = outputs_of(distribution.outputs)
    random = np.random.default_rng(3)
    action, log_prob = drawing_of(distribution).draw(outputs.numpy().copy(), None, random)
    p = distribution.parameters(outputs, None)
    assert log_prob.dtype == np.float32
    close(torch.from_numpy(log_prob), distribution.log_prob(p, torch.from_numpy(action)))


def test_what_is_drawn_of_the_generator_does_not_depend_on_the_outputs():
    for distribution in (Categorical(5), MultiCategorical([2, 3]), Bernoulli(5), Gaussian(3)):
        after = []
        for seed in (1, 2):
            random = np.random.default_rng(7)
            outputs = outputs_of(distribution.outputs, seed).numpy()
            drawing_of(distribution).draw(outputs, None, random)
            after.append(random.integers(1 << 62))
        assert after[0] == after[1]


def chi_square(counts, probabilities):
    expected = probabilities * counts.sum()
    return ((counts - expected) ** 2 / expected).sum()


def test_actions_come_as_often_as_they_are_likely():
    logits = np.array([0.3, -1.0, 2.0, 0.0, 0.9], np.float32)
    legal = np.array([True, True, True, False, True])
    rows = 100_000
    drawing = drawing_of(Categorical(5))
    mask = np.tile(legal, (rows, 1))
    action, _ = drawing.draw(np.tile(logits, (rows, 1)), mask, np.random.default_rng(11))
    counts = np.bincount(action, minlength=5)
    assert counts[3] == 0
    probabilities = np.exp(logits[legal]) / np.exp(logits[legal]).sum()
    assert chi_square(counts[legal], probabilities) < 16.3  # 3 degrees of freedom, 1 in 1000


def test_bits_and_numbers_come_as_often_as_they_are_likely():
    rows = 50_000
    logits = np.tile(np.array([-2.0, 0.5, 1.0], np.float32), (rows, 1))
    packed, _ = drawing_of(Bernoulli(3)).draw(logits.copy(), None, np.random.default_rng(12))
    shares = np.unpackbits(packed, axis=1, count=3, bitorder="little").mean(0)
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-logits[0])), atol=0.01)
    outputs = np.tile(np.array([1.0, -2.0, 0.0, 0.5], np.float32), (rows, 1))
    action, _ = drawing_of(Gaussian(2)).draw(outputs, None, np.random.default_rng(13))
    np.testing.assert_allclose(action.mean(0), [1.0, -2.0], atol=0.03)
    np.testing.assert_allclose(action.std(0), np.exp([0.0, 0.5]), atol=0.03)


class _Largest:
    """Draws the largest number below 1 that there is."""

    def random(self, shape):
        return np.full(shape, np.nextafter(1.0, 0.0))


def test_the_last_legal_action_is_the_last_that_can_be_drawn():
    outputs = outputs_of(7, 3).numpy()
    mask = np.ones((STEPS, 7), bool)
    mask[:, 4:] = False
    action, _ = drawing_of(Categorical(7)).draw(outputs, mask, _Largest())
    assert (action == 3).all()


def test_modes_are_the_likeliest():
    outputs, mask = outputs_of(5), mask_of(5)
    best = masked(outputs, mask).argmax(1).numpy()
    mode = drawing_of(Categorical(5)).mode(outputs.numpy().copy(), mask.numpy())
    np.testing.assert_array_equal(mode, best)
    several = drawing_of(MultiCategorical([2, 3])).mode(outputs.numpy().copy(), None)
    assert several[0].tolist() == [outputs[0, :2].argmax(), outputs[0, 2:].argmax()]
    bits = drawing_of(Bernoulli(5)).mode(outputs.numpy(), None)
    np.testing.assert_array_equal(
        np.unpackbits(bits, axis=1, count=5, bitorder="little"), outputs.numpy() > 0
    )
    np.testing.assert_array_equal(
        drawing_of(Gaussian(2)).mode(outputs.numpy()[:, :4], None), outputs[:, :2]
    )


@pytest.mark.parametrize(
    "distribution", [Categorical(5), MultiCategorical([2, 3]), Bernoulli(5), Gaussian(3)]
)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_diverged_weights_are_an_error(distribution, wrong):
    outputs = outputs_of(distribution.outputs).numpy()
    outputs[3, 1] = wrong
    drawing = drawing_of(distribution)
    with pytest.raises(TroupeError, match="diverged"):
        drawing.draw(outputs.copy(), None, np.random.default_rng(1))
    with pytest.raises(TroupeError, match="diverged"):
        drawing.mode(outputs.copy(), None)


def test_spaces_that_do_not_fit_are_refused():
    whole = gym.Box(0, 5, (2,), np.int32)
    with pytest.raises(UserError, match=r"network\.kind: 'actor_critic' .*int32"):
        distribution_of(Spaces(SEEN, whole))
    masked = {**SEEN, "action_mask": gym.MultiBinary(3)}
    assert isinstance(distribution_of(Spaces(masked, gym.Discrete(3))), Categorical)
    for action in (gym.Discrete(4), gym.MultiBinary(3), gym.Box(-1, 1, (3,))):
        with pytest.raises(UserError, match="action_mask"):
            distribution_of(Spaces(masked, action))
    with pytest.raises(UserError, match="MultiBinary"):
        distribution_of(Spaces({**SEEN, "action_mask": gym.Discrete(3)}, gym.Discrete(3)))
