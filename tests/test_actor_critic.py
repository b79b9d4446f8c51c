"""The stochastic policy: both sides say the same, stepped or over fragments, masked or not."""

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym

from troupe.errors import TroupeError
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Decisions, Spaces, Steps, create, create_acting
from troupe.policies.forward import HostForward, TorchForward, forward_of

CPU = torch.device("cpu")
SEEN = {"observation": gym.Box(-1, 1, (4,))}
ROWS = 6


def network(**options):
    settings = {"hidden": 16, "layers": 2, "recurrent": 0, "activation": "tanh", **options}
    return NetworkSettings(kind="actor_critic", **settings)


def fresh(spaces, settings, seed=1):
    """A policy whose weights are far enough from 0 to tell actions apart."""
    torch.manual_seed(seed)
    policy = create(spaces, settings)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return policy


def weights_of(policy):
    return {name: tensor.numpy().copy() for name, tensor in policy.state_dict().items()}


def actor_like(policy, spaces, settings):
    actor = create_acting(spaces, settings, CPU, torch.float32)
    actor.load(weights_of(policy))
    return actor


def observed(spaces, rows=ROWS, seed=2):
    """Columns of random observations; no mask is all zero."""
    random = np.random.default_rng(seed)
    held = {}
    for name, space in spaces.observation.items():
        space.seed(int(random.integers(1000)))
        values = np.stack([space.sample() for _ in range(rows)])
        if name == "action_mask":
            values[:, 0] = 1
        if isinstance(space, gym.MultiBinary):
            values = np.packbits(values.reshape(rows, -1), axis=1, bitorder="little")
        held[name] = values
    return held


def unlisted(observation, state=None):
    rows = len(next(iter(observation.values())))
    nothing = np.zeros(0, np.int64)
    return Decisions(observation, nothing, np.zeros(rows + 1, np.int64), state or {})


def tensors(columns):
    return {name: torch.from_numpy(np.array(column)) for name, column in columns.items()}


def masked(observation=SEEN, bits=5):
    return {**observation, "action_mask": gym.MultiBinary(bits)}


@pytest.mark.parametrize(
    "spaces",
    [
        Spaces(SEEN, gym.Discrete(5)),
        Spaces(masked(), gym.Discrete(5)),
        Spaces({"x": gym.Discrete(7), "y": gym.MultiBinary(9)}, gym.MultiDiscrete([2, 3])),
        Spaces(SEEN, gym.MultiBinary(9)),
        Spaces(SEEN, gym.Box(-1, 1, (3,))),
        Spaces({"eye": gym.Box(0, 255, (3, 36, 36), np.uint8), **SEEN}, gym.Discrete(3)),
        Spaces({"eye": gym.Box(0, 255, (36, 40, 1), np.uint8)}, gym.Box(-1, 1, (2,))),
    ],
    ids=["choice", "masked", "choices", "bits", "numbers", "image", "image alone"],
)
@pytest.mark.parametrize("shared", [False, True])
def test_both_sides_agree(spaces, shared):
    settings = network(shared=shared, normalise_observation=True)
    policy = fresh(spaces, settings)
    observation = observed(spaces)
    policy.observe(tensors(observed(spaces, 50, 3)), lambda total: total)
    actor = actor_like(policy, spaces, settings)
    choices = actor.act(unlisted(observation), np.random.default_rng(1), 1.0)
    steps = Steps(tensors(observation), torch.from_numpy(choices.action))
    given = policy.evaluate(steps, {"log_prob", "entropy", "value", "distribution"})
    np.testing.assert_allclose(choices.log_prob, given["log_prob"].detach(), atol=1e-5)
    assert given["value"].shape == given["entropy"].shape == (ROWS,)
    assert choices.choice.tolist() == [0] * ROWS
    expected = create(spaces, settings).kl(given["distribution"], given["distribution"])
    torch.testing.assert_close(expected, torch.zeros(ROWS), atol=1e-6, rtol=0)


def test_small_networks_step_in_numpy_and_others_in_pytorch():
    plain = Spaces(SEEN, gym.Discrete(2))
    assert isinstance(forward_of(create(plain, network()), CPU), HostForward)
    assert isinstance(forward_of(create(plain, network(recurrent=8)), CPU), TorchForward)
    image = Spaces({"eye": gym.Box(0, 255, (3, 36, 36), np.uint8)}, gym.Discrete(2))
    assert isinstance(forward_of(create(image, network()), CPU), TorchForward)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_numpy_and_pytorch_step_alike(activation, layers):
    spaces = Spaces(SEEN, gym.Box(-1, 1, (3,)))
    policy = fresh(spaces, network(activation=activation, layers=layers))
    policy.requires_grad_(False)
    observation = observed(spaces)
    mine, _ = HostForward(policy, policy.laid_out())(observation, {})
    theirs, _ = TorchForward(policy, CPU)(observation, {})
    np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_without_exploration_the_likeliest_legal_action_is_taken():
    spaces = Spaces(masked(), gym.Discrete(5))
    policy = fresh(spaces, network())
    observation = observed(spaces)
    chosen = actor_like(policy, spaces, network()).act(
        unlisted(observation), np.random.default_rng(1)
    )
    given = policy.evaluate(Steps(tensors(observation)), {"distribution"})
    assert chosen.action.tolist() == given["distribution"].argmax(1).tolist()
    assert chosen.log_prob.tolist() == [0.0] * ROWS


def listed(observation, bits):
    mask = np.unpackbits(observation["action_mask"], axis=1, count=bits, bitorder="little")
    offsets = np.concatenate([[0], mask.sum(1).cumsum()]).astype(np.int64)
    return Decisions(observation, np.nonzero(mask)[1], offsets)


def test_a_game_lists_its_actions():
    spaces = Spaces(masked(), gym.Discrete(5))
    policy = fresh(spaces, network())
    actor = actor_like(policy, spaces, network())
    decisions = listed(observed(spaces), 5)
    chosen = actor.act(decisions, np.random.default_rng(1), 1.0)
    rows = decisions.offsets[:-1] + chosen.choice
    assert (rows < decisions.offsets[1:]).all()
    np.testing.assert_array_equal(decisions.legal[rows], chosen.action)
    values = actor.values(decisions)
    np.testing.assert_allclose(values[rows], chosen.log_prob, atol=1e-6)
    totals = np.add.reduceat(np.exp(values), decisions.offsets[:-1])
    np.testing.assert_allclose(totals, 1.0, atol=1e-5)
    wrong = decisions._replace(legal=decisions.legal + 7)
    with pytest.raises(TroupeError, match="action_mask"):
        actor.act(wrong, np.random.default_rng(1), 1.0)


LENGTHS = [3, 1, 7, 7, 2]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, [4]])
def test_fragments_are_worth_what_stepping_through_them_is(shared, lengths):
    spaces = Spaces(SEEN, gym.Discrete(3))
    settings = network(recurrent=8, shared=shared)
    policy = fresh(spaces, settings)
    actor = actor_like(policy, spaces, settings)
    observation = observed(spaces, sum(lengths))
    random = np.random.default_rng(4)
    initial = {
        name: random.normal(size=column.shape).astype(np.float32)
        for name, column in actor.initial(len(lengths)).items()
    }
    log_prob, action, start = [], [], 0
    for fragment, length in enumerate(lengths):
        state = {name: column[fragment : fragment + 1] for name, column in initial.items()}
        for row in range(start, start + length):
            seen = {name: column[row : row + 1] for name, column in observation.items()}
            chosen = actor.act(unlisted(seen, state), random, 1.0)
            state = chosen.state
            log_prob.append(chosen.log_prob[0])
            action.append(chosen.action[0])
        start += length
    steps = Steps(
        tensors(observation), torch.tensor(action), torch.tensor(lengths), tensors(initial)
    )
    given = policy.evaluate(steps, {"log_prob", "value"})
    np.testing.assert_allclose(given["log_prob"].detach(), log_prob, atol=1e-5)
    given["value"].sum().backward()
    assert policy.memory.lstm.weight_hh_l0.grad.abs().max() > 0


def test_episodes_begin_with_nothing_remembered():
    spaces, settings = Spaces(SEEN, gym.Discrete(3)), network(recurrent=8)
    policy = fresh(spaces, settings)
    initial = actor_like(policy, spaces, settings).initial(2)
    assert {name: column.shape for name, column in initial.items()} == {"h": (2, 8), "c": (2, 8)}
    steps = Steps(tensors(observed(spaces)), None, torch.tensor([4, 2]))
    without = policy.evaluate(steps, {"value"})["value"]
    zeros = Steps(steps.observation, None, steps.length, tensors(initial))
    torch.testing.assert_close(without, policy.evaluate(zeros, {"value"})["value"])
    assert actor_like(fresh(spaces, network()), spaces, network()).initial(2) == {}


def test_layers_begin_as_they_should():
    torch.manual_seed(1)
    policy = create(Spaces(SEEN, gym.Box(-1, 1, (3,))), network(hidden=32))
    for perceptron, last in ((policy.policy, 0.01), (policy.critic, 1.0)):
        gains = (2**0.5, 2**0.5, last)
        for layer, gain in zip(perceptron.linear, gains, strict=True):
            values = torch.linalg.svdvals(layer.weight)
            torch.testing.assert_close(values, torch.full_like(values, gain))
            assert (layer.bias == 0).all()
    assert policy.log_std.tolist() == [0.0] * 3


@pytest.mark.parametrize("shared", [False, True])
def test_groups_divide_the_parameters(shared):
    policy = create(Spaces(SEEN, gym.Discrete(2)), network(shared=shared, recurrent=4))
    groups = [policy.group(name) for name in ("policy", "critic")]
    assert not set(groups[0]) & set(groups[1])
    assert set(groups[0]) | set(groups[1]) == set(policy.group("all"))
    steps = Steps(tensors(observed(Spaces(SEEN, gym.Discrete(2)))), None, torch.tensor([ROWS]))
    policy.evaluate(steps, {"entropy"})["entropy"].sum().backward()
    assert all(parameter.grad is None for parameter in groups[1])


def test_rewards_are_scaled_by_the_deviation_of_returns():
    spaces = Spaces(SEEN, gym.Discrete(2))
    policy = create(spaces, network(normalise_reward=True))
    assert policy.reward_scale() == 1.0
    returns = np.random.default_rng(5).normal(3, 20, 500).astype(np.float32)
    policy.observe_returns(torch.from_numpy(returns), lambda total: total)
    np.testing.assert_allclose(policy.reward_scale(), 1 / returns.std(), rtol=1e-5)
    assert create(spaces, network()).reward_scale() == 1.0


def test_moments_are_part_of_the_weights_and_have_no_gradient():
    spaces, settings = Spaces(SEEN, gym.Discrete(2)), network(normalise_observation=True)
    policy = create(spaces, settings)
    assert "inputs.moments.mean" in policy.state_dict()
    assert "inputs.moments.mean" not in dict(policy.named_parameters())
    before = policy.inputs.moments.mean
    policy.observe(tensors(observed(spaces)), lambda total: total)
    assert policy.inputs.moments.mean is before
    assert not before.requires_grad


@pytest.mark.parametrize("change", ["shape", "dtype", "missing", "unknown"])
def test_foreign_weights_change_nothing(change):
    spaces, settings = Spaces(SEEN, gym.Discrete(3)), network(normalise_observation=True)
    policy = fresh(spaces, settings)
    actor = actor_like(policy, spaces, settings)
    decisions = unlisted(observed(spaces))
    before = actor.act(decisions, np.random.default_rng(1), 1.0)
    given = {name: array + 1 for name, array in weights_of(policy).items()}
    name = "policy.layers.0.weight"
    match change:
        case "shape":
            given[name] = given[name][:, 1:]
        case "dtype":
            given[name] = given[name].astype(np.float64)
        case "missing":
            del given[name]
        case "unknown":
            name = "policy.layers.9.weight"
            given[name] = np.zeros(1, np.float32)
    with pytest.raises(TroupeError, match=name):
        actor.load(given)
    after = actor.act(decisions, np.random.default_rng(1), 1.0)
    np.testing.assert_array_equal(after.log_prob, before.log_prob)


def test_read_only_weights_and_later_changes_to_them_do_no_harm():
    spaces = Spaces(SEEN, gym.Discrete(3))
    policy = fresh(spaces, network())
    actor = create_acting(spaces, network(), CPU, torch.bfloat16)
    given = weights_of(policy)
    for array in given.values():
        array.setflags(write=False)
    actor.load(given)
    decisions = unlisted(observed(spaces))
    before = actor.act(decisions, np.random.default_rng(1), 1.0)
    for array in given.values():
        array.setflags(write=True)
        array += 1
    after = actor.act(decisions, np.random.default_rng(1), 1.0)
    np.testing.assert_array_equal(after.log_prob, before.log_prob)


def test_mixed_precision_keeps_results_in_float32():
    spaces = Spaces(SEEN, gym.Discrete(3))
    policy = fresh(spaces, network())
    steps = Steps(tensors(observed(spaces)), torch.zeros(ROWS, dtype=torch.int64))
    exact = policy.evaluate(steps, {"log_prob", "value"})
    with torch.autocast("cpu", torch.bfloat16):
        rough = policy.evaluate(steps, {"log_prob", "value"})
    for name, tensor in rough.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, exact[name], atol=0.05, rtol=0)
