"""Values of numbered actions: both sides say the same, and nothing illegal is chosen."""

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym

from troupe.errors import TroupeError, UserError
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Decisions, Spaces, Steps, create, create_acting

CPU = torch.device("cpu")
SEEN = {"observation": gym.Box(-5, 5, (3,))}
ACTIONS, ROWS = 5, 9
PLAIN = Spaces(SEEN, gym.Discrete(ACTIONS))
MASKED = Spaces({**SEEN, "action_mask": gym.MultiBinary(ACTIONS)}, gym.Discrete(ACTIONS))


def network(**options):
    settings = {"hidden": 16, "layers": 2, "recurrent": 0, **options}
    return NetworkSettings(kind="discrete_value", **settings)


def pair(spaces=PLAIN, **options):
    """The learner's side and the actor's, of the same weights."""
    torch.manual_seed(1)
    policy = create(spaces, network(**options))
    actor = create_acting(spaces, network(**options), CPU, torch.float32)
    actor.load({name: tensor.numpy() for name, tensor in policy.state_dict().items()})
    return policy, actor


def observed(*, mask=None, rows=ROWS):
    values = np.random.default_rng(2).normal(0, 2, (rows, 3)).astype(np.float32)
    if mask is None:
        return {"observation": values}
    packed = np.packbits(mask, axis=1, bitorder="little")
    return {"observation": values, "action_mask": packed}


def some_legal():
    mask = np.random.default_rng(3).random((ROWS, ACTIONS)) < 0.5
    mask[:, 2] |= ~mask.any(1)
    return mask


def decisions(observation):
    rows = len(observation["observation"])
    return Decisions(observation, np.zeros(0, np.int64), np.zeros(rows + 1, np.int64))


def listed(observation, mask):
    offsets = np.concatenate([[0], mask.sum(1).cumsum()]).astype(np.int64)
    return Decisions(observation, np.nonzero(mask)[1], offsets)


def evaluate(policy, observation, want, action=None):
    tensors = {name: torch.from_numpy(column) for name, column in observation.items()}
    given = policy.evaluate(Steps(tensors, action), {want})[want]
    return given.detach()


@pytest.mark.parametrize("duelling", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_both_sides_agree(duelling, layers):
    policy, actor = pair(duelling=duelling, layers=layers)
    everything = listed(observed(), np.ones((ROWS, ACTIONS), bool))
    values = evaluate(policy, observed(), "values")
    np.testing.assert_allclose(actor.values(everything), values.flatten(), atol=1e-6)
    assert values.std() > 1e-3


def test_the_value_of_the_action_taken():
    policy, _ = pair()
    action = torch.arange(ROWS) % ACTIONS
    values = evaluate(policy, observed(), "values")
    taken = evaluate(policy, observed(), "value", action)
    torch.testing.assert_close(taken, values[torch.arange(ROWS), action])


def test_duelling_adds_advantages_of_mean_0():
    policy, _ = pair(duelling=True)
    x = torch.from_numpy(observed()["observation"])
    hidden = torch.relu(policy.body.linear[0](x))
    streams = torch.relu(policy.streams.linear[0](hidden))
    state_value = policy.value.linear[0](streams[:, :16]).squeeze(1)
    advantage = policy.advantage.linear[0](streams[:, 16:])
    values = evaluate(policy, observed(), "values")
    torch.testing.assert_close(values.mean(1), state_value.detach())
    centred = advantage - advantage.mean(1, keepdim=True)
    torch.testing.assert_close(values - state_value[:, None].detach(), centred.detach())


@pytest.mark.parametrize("game", [False, True])
@pytest.mark.parametrize("exploration", [0.0, 0.7])
def test_nothing_illegal_is_chosen(game, exploration):
    policy, actor = pair(MASKED)
    mask = some_legal()
    observation = observed(mask=mask)
    asked = listed(observation, mask) if game else decisions(observation)
    chosen = actor.act(asked, np.random.default_rng(1), exploration)
    assert mask[np.arange(ROWS), chosen.action].all()
    if game:
        rows = asked.offsets[:-1] + chosen.choice
        np.testing.assert_array_equal(asked.legal[rows], chosen.action)
    else:
        assert chosen.choice.tolist() == [0] * ROWS
    if exploration == 0.0:
        values = evaluate(policy, observation, "values")
        assert chosen.action.tolist() == values.argmax(1).tolist()


def test_values_of_illegal_actions_are_not_finite_where_any_is_legal():
    policy, _ = pair(MASKED)
    mask = some_legal()
    mask[4] = False
    values = evaluate(policy, observed(mask=mask), "values").numpy()
    expected = np.where(mask.any(1, keepdims=True), mask, True)
    np.testing.assert_array_equal(np.isfinite(values), expected)


def test_exploring_is_uniform_over_what_is_legal():
    rows = 20_000
    mask = np.tile(np.array([True, False, True, True, False]), (rows, 1))
    _, actor = pair(MASKED)
    seen = observed(mask=mask, rows=rows)
    chosen = actor.act(decisions(seen), np.random.default_rng(1), 1.0)
    np.testing.assert_allclose(
        np.bincount(chosen.action), np.array([1, 0, 1, 1]) / 3 * rows, rtol=0.05
    )
    np.testing.assert_allclose(chosen.log_prob, np.log(1 / 3), rtol=1e-5)


def test_images():
    spaces = Spaces({"eye": gym.Box(0, 255, (4, 36, 36), np.uint8)}, gym.Discrete(3))
    policy, actor = pair(spaces, duelling=True)
    images = np.random.default_rng(5).integers(0, 256, (2, 4, 36, 36), np.uint8)
    asked = Decisions({"eye": images}, np.tile(np.arange(3), 2), np.array([0, 3, 6]))
    values = evaluate(policy, {"eye": images}, "values")
    np.testing.assert_allclose(actor.values(asked), values.flatten(), atol=1e-5)


def test_other_spaces_and_options_are_refused():
    box = gym.Box(-1, 1, (2,))
    with pytest.raises(
        UserError, match=r"network\.kind: 'discrete_value' .*deterministic would do"
    ):
        create(Spaces(SEEN, box), network())
    with pytest.raises(UserError, match=r"network\.recurrent"):
        create(PLAIN, network(recurrent=8))
    with pytest.raises(UserError, match="one for every action"):
        create(Spaces({**SEEN, "action_mask": gym.MultiBinary(4)}, gym.Discrete(5)), network())


def test_diverged_weights_are_an_error():
    policy, actor = pair()
    weights = {name: tensor.numpy() * np.nan for name, tensor in policy.state_dict().items()}
    actor.load(weights)
    with pytest.raises(TroupeError, match="diverged"):
        actor.act(decisions(observed()), np.random.default_rng(1), 0.1)
