"""The action-value network: one value from both sides, and choices drawn as they say."""

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym
from torch import nn

from troupe.errors import TroupeError, UserError
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Decisions, Spaces, Steps, devices
from troupe.policies.acting import ActionValueActor
from troupe.policies.action_value import ActionValue
from troupe.policies.choosing import best, epsilon_greedy

NETWORK = NetworkSettings(hidden=32, layers=3, recurrent=16)
STATE, MOVES, ACTION = 37, 6, 11
SPACES = Spaces(
    {"state": gym.MultiBinary(STATE), "history": gym.MultiBinary((MOVES, ACTION))},
    gym.MultiBinary(ACTION),
)
PLAIN = Spaces({"state": gym.MultiBinary(STATE)}, gym.MultiBinary(ACTION))


def pack(bits):
    return np.packbits(bits.reshape(len(bits), -1).astype(np.uint8), axis=1, bitorder="little")


def draw(random, decisions):
    """Bits of states and histories, and of the legal actions of each decision."""
    counts = random.integers(1, 9, decisions)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    state = random.random((decisions, STATE)) < 0.3
    history = random.random((decisions, MOVES, ACTION)) < 0.3
    legal = random.random((offsets[-1], ACTION)) < 0.3
    packed = Decisions(
        {"state": pack(state), "history": pack(history)}, pack(legal), offsets.astype(np.int64)
    )
    return packed, state, history, legal, np.repeat(np.arange(decisions), counts)


def reference(model, state, history, action):
    """The same network written step by step: LSTM equations, one row at a time."""
    parameters = {name: value.double() for name, value in model.state_dict().items()}
    summary = []
    for moves in history.reshape(len(history), MOVES // 3, 3 * ACTION):
        h = c = torch.zeros(NETWORK.recurrent, dtype=torch.float64)
        for row in torch.from_numpy(moves).double():
            gates = parameters["memory.weight_ih_l0"] @ row + parameters["memory.bias_ih_l0"]
            gates = gates + parameters["memory.weight_hh_l0"] @ h + parameters["memory.bias_hh_l0"]
            i, f, g, o = gates.chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        summary.append(h)
    rest = [torch.from_numpy(part).double() for part in (state, action)]
    x = torch.cat([torch.stack(summary), *rest], dim=1)
    for layer in range(NETWORK.layers):
        weight, bias = parameters[f"hidden.{layer}.weight"], parameters[f"hidden.{layer}.bias"]
        x = nn.functional.relu(x @ weight.T + bias)
    return (x @ parameters["value.weight"].T + parameters["value.bias"]).squeeze(1)


def learner_values(model, decisions, owner):
    observation = {k: torch.from_numpy(v[owner]) for k, v in decisions.observation.items()}
    steps = Steps(observation, torch.from_numpy(decisions.legal))
    return model.evaluate(steps, {"value"})["value"]


def actor_like(model, spaces, precision=torch.float32):
    actor = ActionValueActor(spaces, NETWORK, torch.device("cpu"), precision)
    actor.load({name: value.numpy() for name, value in model.state_dict().items()})
    return actor


def test_both_sides_equal_a_plain_reference():
    torch.manual_seed(1)
    model = ActionValue(SPACES, NETWORK)
    decisions, state, history, legal, owner = draw(np.random.default_rng(1), 70)
    expected = reference(model, state[owner], history[owner], legal).numpy()
    with torch.no_grad():
        learner = learner_values(model, decisions, owner).numpy()
    actor = actor_like(model, SPACES).values(decisions)
    np.testing.assert_allclose(learner, expected, atol=1e-5)
    np.testing.assert_allclose(actor, expected, atol=1e-5)
    assert np.ptp(expected) > 1e-2


def test_gradients_equal_those_of_the_reference():
    torch.manual_seed(2)
    model = ActionValue(SPACES, NETWORK)
    decisions, state, history, legal, owner = draw(np.random.default_rng(2), 9)
    learner_values(model, decisions, owner).square().sum().backward()
    mine = {name: value.grad.clone() for name, value in model.named_parameters()}

    class Twin:
        def state_dict(self):
            return dict(model.named_parameters())

    model.zero_grad()
    reference(Twin(), state[owner], history[owner], legal).square().sum().backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(mine[name], value.grad, atol=1e-5, rtol=1e-4)


def test_bf16_is_close():
    torch.manual_seed(3)
    model = ActionValue(SPACES, NETWORK)
    decisions, *_, owner = draw(np.random.default_rng(3), 70)
    with torch.no_grad():
        exact = learner_values(model, decisions, owner).numpy()
    rough = actor_like(model, SPACES, torch.bfloat16).values(decisions)
    assert rough.dtype == np.float32
    np.testing.assert_allclose(rough, exact, atol=1e-2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = learner_values(model, decisions, owner)
    np.testing.assert_allclose(mixed.float().numpy(), exact, atol=1e-2)


def test_mixed_precision_has_nearly_the_same_gradient():
    torch.manual_seed(10)
    model = ActionValue(SPACES, NETWORK)
    decisions, *_, owner = draw(np.random.default_rng(10), 70)
    gradients = []
    for mixed in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            values = learner_values(model, decisions, owner)
        (values.float() - 1).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for exact, rough in zip(*gradients, strict=True):
        assert rough.dtype == torch.float32
        assert (rough - exact).norm() < 0.05 * exact.norm()


def test_what_the_machine_cannot_do_is_refused():
    cpu = torch.device("cpu")
    assert devices.resolve_device("auto", prefer_gpu=False) == cpu
    assert devices.resolve_precision("fp32", cpu) == torch.float32
    assert devices.resolve_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(UserError, match=r"learner\.device: 'cuda:99'"):
        devices.check("cuda:99", "auto", "learner")
    with pytest.raises(UserError, match=r"actors\.precision: 'fp16'"):
        devices.check("auto", "fp16", "actors")


def test_a_game_without_history():
    torch.manual_seed(4)
    model = ActionValue(PLAIN, NETWORK)
    assert not [name for name in model.state_dict() if "memory" in name]
    decisions, *_, owner = draw(np.random.default_rng(4), 5)
    with torch.no_grad():
        exact = learner_values(model, decisions, owner).numpy()
    np.testing.assert_allclose(actor_like(model, PLAIN).values(decisions), exact, atol=1e-5)


def test_value_does_not_depend_on_the_batch():
    torch.manual_seed(5)
    actor = actor_like(ActionValue(SPACES, NETWORK), SPACES)
    decisions, *_ = draw(np.random.default_rng(5), 40)
    together = actor.values(decisions)
    start, end = decisions.offsets[7], decisions.offsets[8]
    alone = Decisions(
        {name: rows[7:8] for name, rows in decisions.observation.items()},
        decisions.legal[start:end],
        np.array([0, end - start]),
    )
    np.testing.assert_allclose(actor.values(alone), together[start:end], atol=1e-5)


def test_what_is_no_action_value_game_is_refused():
    with pytest.raises(UserError, match="MultiBinary action"):
        ActionValue(Spaces({"state": gym.MultiBinary(3)}, gym.Discrete(2)), NETWORK)
    with pytest.raises(UserError, match="`state`"):
        ActionValue(Spaces({"pixels": gym.MultiBinary(3)}, gym.MultiBinary(2)), NETWORK)


def test_foreign_weights_change_nothing():
    torch.manual_seed(6)
    model = ActionValue(SPACES, NETWORK)
    actor = actor_like(model, SPACES)
    decisions, *_ = draw(np.random.default_rng(6), 3)
    before = actor.values(decisions)
    tensors = {name: value.numpy() + 1 for name, value in model.state_dict().items()}
    tensors["value.weight"] = tensors["value.weight"][:, 1:]
    with pytest.raises(TroupeError, match=r"value\.weight"):
        actor.load(tensors)
    np.testing.assert_array_equal(actor.values(decisions), before)


def test_best_is_the_first_highest_of_each_segment():
    values = np.array([3, 1, 3, -2, -1, -1, 5], np.float32)
    np.testing.assert_array_equal(best(values, np.array([0, 3, 6, 7])), [0, 1, 0])


def numbered(offsets):
    """Decisions whose listed actions are numbers from 0."""
    return Decisions({}, np.arange(offsets[-1]), np.asarray(offsets, np.int64))


def test_epsilon_greedy_draws_what_its_log_probs_say():
    draws, counts = 20_000, np.array([1, 2, 5])
    offsets = np.concatenate([[0], np.cumsum(np.tile(counts, draws))])
    values = np.tile(np.array([0, 1, 0, 0, 0, 7, 0, 0], np.float32), draws)
    chosen = epsilon_greedy(values, numbered(offsets), np.random.default_rng(7), 0.4)
    np.testing.assert_array_equal(chosen.action, offsets[:-1] + chosen.choice)
    choice, log_prob = chosen.choice.reshape(draws, 3), chosen.log_prob.reshape(draws, 3)
    for column, (count, greedy) in enumerate([(1, 0), (2, 0), (5, 2)]):
        for action in range(count):
            probability = 0.4 / count + (0.6 if action == greedy else 0.0)
            drawn = choice[:, column] == action
            assert abs(drawn.mean() - probability) < 0.02
            np.testing.assert_allclose(log_prob[drawn, column], np.log(probability), rtol=1e-5)


def test_without_epsilon_the_best_is_certain():
    values = np.array([0, 1], np.float32)
    chosen = epsilon_greedy(values, numbered([0, 2]), np.random.default_rng(8), 0.0)
    assert chosen.choice.tolist() == chosen.action.tolist() == [1]
    assert chosen.log_prob.tolist() == [0.0]


def test_diverged_weights_are_an_error():
    values = np.array([0, np.nan], np.float32)
    with pytest.raises(TroupeError, match="diverged"):
        epsilon_greedy(values, numbered([0, 2]), np.random.default_rng(9), 0.1)
