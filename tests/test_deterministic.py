"""The deterministic policy and its critics."""

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym

from troupe.errors import TroupeError, UserError
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Decisions, Spaces, Steps, create, create_acting

CPU = torch.device("cpu")
LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)
SPACES = Spaces({"observation": gym.Box(-5, 5, (3,))}, gym.Box(LOW, HIGH))
ROWS = 8


def network(**options):
    settings = {"hidden": 16, "layers": 2, "recurrent": 0, **options}
    return NetworkSettings(kind="deterministic", **settings)


def fresh(settings=None, seed=1, spaces=SPACES):
    torch.manual_seed(seed)
    return create(spaces, settings or network())


def actor_like(policy, *, updates, settings=None, spaces=SPACES):
    policy.updates.fill_(updates)
    actor = create_acting(spaces, settings or network(), CPU, torch.float32)
    actor.load({name: tensor.numpy() for name, tensor in policy.state_dict().items()})
    return actor


def observed(rows=ROWS, seed=2):
    values = np.random.default_rng(seed).normal(0, 2, (rows, 3)).astype(np.float32)
    return {"observation": values}


def decisions(observation):
    rows = len(next(iter(observation.values())))
    return Decisions(observation, np.zeros(0, np.int64), np.zeros(rows + 1, np.int64))


def steps(observation, action=None):
    tensors = {name: torch.from_numpy(column) for name, column in observation.items()}
    return Steps(tensors, None if action is None else torch.from_numpy(action))


def test_both_sides_take_the_same_action_within_its_bounds():
    settings = network(normalise_observation=True)
    policy = fresh(settings)
    policy.observe(steps(observed(100, 3)).observation, lambda total: total)
    with torch.no_grad():
        policy.actor.linear[-1].weight.mul_(5)
    observation = observed()
    chosen = actor_like(policy, updates=1, settings=settings).act(
        decisions(observation), np.random.default_rng(1)
    )
    action = policy.evaluate(steps(observation), {"policy_action"})["policy_action"].detach()
    np.testing.assert_allclose(chosen.action, action, atol=1e-5)
    assert chosen.action.dtype == np.float32
    assert ((action >= policy.low) & (action <= policy.high)).all()
    assert np.ptp(chosen.action[:, 1]) > 0.5
    assert chosen.log_prob.tolist() == chosen.choice.tolist() == [0] * ROWS


def test_an_untrained_policy_explores_all_its_range():
    actor = actor_like(fresh(), updates=0)
    drawn = actor.act(decisions(observed(20_000)), np.random.default_rng(1), 0.1).action
    np.testing.assert_allclose(drawn.mean(0), [0, 5], atol=0.1)
    np.testing.assert_allclose(drawn.std(0), (HIGH - LOW) / 12**0.5, rtol=0.02)
    assert (drawn >= LOW).all()
    assert (drawn <= HIGH).all()
    greedy = actor.act(decisions(observed(3)), np.random.default_rng(1)).action
    again = actor_like(fresh(), updates=9).act(decisions(observed(3)), np.random.default_rng(2))
    np.testing.assert_array_equal(greedy, again.action)


def test_noise_is_a_share_of_half_the_range_and_stays_within_bounds():
    policy = fresh()
    observation = {"observation": np.tile(observed(1)["observation"], (20_000, 1))}
    actor = actor_like(policy, updates=1)
    drawn = actor.act(decisions(observation), np.random.default_rng(1), 0.1).action
    np.testing.assert_allclose(drawn.std(0), [0.2, 0.5], rtol=0.03)
    middle = actor.act(decisions(observation), np.random.default_rng(1)).action[0]
    np.testing.assert_allclose(drawn.mean(0), middle, atol=0.02)
    wild = actor.act(decisions(observation), np.random.default_rng(1), 3.0).action
    np.testing.assert_array_equal(wild.min(0), LOW)
    np.testing.assert_array_equal(wild.max(0), HIGH)


def test_the_actor_climbs_a_critic_that_stays_as_it_is():
    policy = fresh(network(critics=2))
    given = policy.evaluate(steps(observed()), {"policy_value"})["policy_value"]
    assert given.shape == (ROWS,)
    given.sum().backward()
    assert all(parameter.grad is None for parameter in policy.group("critic"))
    assert all(parameter.grad.abs().sum() > 0 for parameter in policy.group("actor"))


def test_the_actors_gradient_is_that_of_the_first_critic():
    policy = fresh(network(critics=2))
    policy.evaluate(steps(observed()), {"policy_value"})["policy_value"].sum().backward()
    mine = [parameter.grad.clone() for parameter in policy.group("actor")]
    policy.zero_grad()
    action = policy.evaluate(steps(observed()), {"policy_action"})["policy_action"]
    seen = steps(observed()).observation
    policy.evaluate(Steps(seen, action), {"value"})["value"][:, 0].sum().backward()
    for gradient, parameter in zip(mine, policy.group("actor"), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize("critics", [1, 2])
def test_critics_value_the_action_given(critics):
    policy = fresh(network(critics=critics))
    action = np.random.default_rng(4).uniform(LOW, HIGH, (ROWS, 2)).astype(np.float32)
    value = policy.evaluate(steps(observed(), action), {"value"})["value"]
    assert value.shape == ((ROWS,) if critics == 1 else (ROWS, 2))
    shares = (action - [0, 5]) / [2, 5]
    x = torch.from_numpy(np.concatenate([observed()["observation"], shares], 1)).float()
    for index, critic in enumerate(policy.critics):
        expected = x
        for layer in critic.linear[:-1]:
            expected = torch.relu(layer(expected))
        expected = critic.linear[-1](expected).squeeze(1)
        torch.testing.assert_close(value.view(ROWS, -1)[:, index], expected)
    value.sum().backward()
    assert all(parameter.grad is None for parameter in policy.group("actor"))


def test_groups_divide_the_parameters():
    policy = fresh(network(critics=2, normalise_observation=True))
    groups = [policy.group(name) for name in ("actor", "critic")]
    assert not set(groups[0]) & set(groups[1])
    assert set(groups[0]) | set(groups[1]) == set(policy.group("all"))


def test_images_are_seen_by_actor_and_critic_each_on_its_own():
    spaces = Spaces({"eye": gym.Box(0, 255, (36, 36, 3), np.uint8)}, gym.Box(-1, 1, (2,)))
    policy = fresh(spaces=spaces)
    images = np.random.default_rng(5).integers(0, 256, (3, 36, 36, 3), np.uint8)
    policy.evaluate(steps({"eye": images}), {"policy_value"})["policy_value"].sum().backward()
    assert all(parameter.grad is None for parameter in policy.group("critic"))
    assert all(parameter.grad is not None for parameter in policy.group("actor"))
    chosen = actor_like(policy, updates=1, spaces=spaces).act(
        decisions({"eye": images}), np.random.default_rng(1)
    )
    action = policy.evaluate(steps({"eye": images}), {"policy_action"})["policy_action"].detach()
    np.testing.assert_allclose(chosen.action, action, atol=1e-5)


@pytest.mark.parametrize(
    ("action", "fits"),
    [
        (gym.Discrete(3), "actor_critic or discrete_value"),
        (gym.Box(-np.inf, np.inf, (2,)), "actor_critic would do"),
        (gym.Box(-3e38, 3e38, (2,)), "actor_critic"),
        (gym.MultiDiscrete([2, 2]), "actor_critic would do"),
    ],
)
def test_actions_without_bounds_are_refused(action, fits):
    with pytest.raises(UserError, match=rf"network\.kind: 'deterministic' .*{fits}"):
        create(Spaces(SPACES.observation, action), network())


@pytest.mark.parametrize("option", ["recurrent", "shared", "normalise_reward"])
def test_options_of_others_are_refused(option):
    with pytest.raises(UserError, match=rf"network\.{option}: .*actor_critic"):
        create(SPACES, network(**{option: True}))


def test_diverged_weights_are_an_error():
    policy = fresh()
    with torch.no_grad():
        policy.actor.linear[0].weight.fill_(torch.nan)
    actor = actor_like(policy, updates=1)
    with pytest.raises(TroupeError, match="diverged"):
        actor.act(decisions(observed()), np.random.default_rng(1), 0.1)
