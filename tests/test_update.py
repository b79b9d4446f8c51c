"""The update loop, the flat optimizer and mixed precision, on problems small enough to know."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from troupe.config import parse
from troupe.episodes import Columns, Episodes
from troupe.errors import TroupeError, UserError
from troupe_learners.algorithms import Batch, Loss, Plan, Totals
from troupe_learners.losses import mean_square
from troupe_learners.optim import FlatOptimizer, OptimizerSettings
from troupe_learners.precision import Precision
from troupe_learners.update import Update, minibatches, split

CPU = torch.device("cpu")
CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.gpu,
)
SGD = OptimizerSettings(name="sgd", lr=0.1)


class Regressor(nn.Module):
    """A small network with the learner's side of a policy."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.hidden = nn.Linear(3, hidden)
        self.value = nn.Linear(hidden, 1)

    def evaluate(self, observation: Mapping[str, Tensor], action: Tensor) -> Tensor:
        x = torch.cat([observation["x"], action], dim=1)
        return self.value(F.relu(self.hidden(x))).squeeze(1)


@dataclass
class Regression:
    """The simplest algorithm: predict `target`."""

    plan: Plan
    optimizer: OptimizerSettings = SGD
    prepared: int = 0

    def credit(self, block: Episodes) -> Columns:
        raise NotImplementedError

    def prepare(self, batch: Batch) -> Batch:
        self.prepared += 1
        return batch

    def loss(self, outputs: Tensor, minibatch: Batch, totals: Totals) -> Loss:
        assert outputs.dtype is torch.float32
        loss = mean_square(outputs, minibatch.step["target"], totals.steps)
        return Loss(loss, {"value": outputs.detach().sum() / totals.steps})


def batch_of(steps: int, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    x = random.normal(size=(steps, 2)).astype(np.float32)
    a = random.normal(size=(steps, 1)).astype(np.float32)
    target = x[:, 0] * 0.5 - a[:, 0]
    return Batch.on(CPU, {"observation.x": x, "action.a": a, "target": target})


def build(
    plan: Plan,
    settings: OptimizerSettings = SGD,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> tuple[Regressor, FlatOptimizer, Update, Regression]:
    policy = Regressor().to(device)
    algorithm = Regression(plan, settings)
    optimizer = FlatOptimizer(policy, settings)
    random = np.random.default_rng(5)
    update = Update(policy, algorithm, optimizer, Precision(dtype, device), random)
    return policy, optimizer, update, algorithm


PLAN = Plan(batch=64, max_grad_norm=10.0)


@pytest.mark.parametrize("limit", [1, 7, 32, 63])
def test_neither_loss_nor_gradient_depends_on_micro_batches(limit: int) -> None:
    batch = batch_of(64)
    _, whole_optimizer, whole, _ = build(PLAN)
    _, split_optimizer, parts, _ = build(replace(PLAN, micro_batch=limit))
    expected, got = whole(batch), parts(batch)
    assert got.keys() == expected.keys() == {"loss", "value", "grad_norm"}
    for name in expected:
        torch.testing.assert_close(got[name], expected[name])
    torch.testing.assert_close(split_optimizer.grad, whole_optimizer.grad)
    for name, tensor in whole_optimizer.weights().items():
        np.testing.assert_allclose(split_optimizer.weights()[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_every_optimizer_learns_a_tiny_problem(name: str) -> None:
    lr = 0.1 if name == "sgd" else 0.01
    settings = parse(OptimizerSettings, {"name": name, "lr": lr})
    plan = replace(PLAN, epochs=4, minibatch=16)
    _, _, update, algorithm = build(plan, settings)
    losses = [float(update(batch_of(64, seed))["loss"]) for seed in range(30)]
    assert losses[-1] < 0.02 < losses[0]
    assert algorithm.prepared == 30


def test_every_step_is_in_one_minibatch_of_each_epoch() -> None:
    batch = batch_of(50)
    plan = replace(PLAN, epochs=3, minibatch=16)
    parts = list(minibatches(batch, plan, np.random.default_rng(0)))
    assert [part.steps for part in parts] == [16, 16, 16, 2] * 3
    for epoch in range(3):
        seen = torch.cat([part.step["target"] for part in parts[4 * epoch : 4 * epoch + 4]])
        torch.testing.assert_close(seen.sort().values, batch.step["target"].sort().values)
    assert list(minibatches(batch, PLAN, np.random.default_rng(0))) == [batch]


def test_parts_are_even_and_within_the_limit() -> None:
    assert [part.steps for part in split(batch_of(50), 16)] == [12, 13, 12, 13]
    assert [part.steps for part in split(batch_of(50), None)] == [50]


OPTIMIZERS = [
    ({"name": "sgd", "lr": 0.1}, torch.optim.SGD, {"lr": 0.1}),
    (
        {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    ),
    (
        {"name": "rmsprop", "lr": 1e-3},
        torch.optim.RMSprop,
        {"lr": 1e-3, "alpha": 0.99, "eps": 1e-5},
    ),
    (
        {"name": "rmsprop", "lr": 1e-3, "alpha": 0.9, "eps": 1e-3, "momentum": 0.5},
        torch.optim.RMSprop,
        {"lr": 1e-3, "alpha": 0.9, "eps": 1e-3, "momentum": 0.5},
    ),
    ({"name": "adam", "lr": 1e-3}, torch.optim.Adam, {"lr": 1e-3}),
    (
        {"name": "adam", "lr": 1e-3, "betas": [0.5, 0.9], "eps": 1e-5, "weight_decay": 0.1},
        torch.optim.Adam,
        {"lr": 1e-3, "betas": (0.5, 0.9), "eps": 1e-5, "weight_decay": 0.1},
    ),
    ({"name": "adamw", "lr": 1e-3}, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.01}),
]


@pytest.mark.parametrize(("options", "kind", "arguments"), OPTIMIZERS)
def test_the_flat_optimizer_equals_torch_with_one_tensor_per_parameter(
    options: dict[str, object], kind: type[torch.optim.Optimizer], arguments: dict[str, object]
) -> None:
    flat_policy, plain_policy = Regressor(), Regressor()
    flat = FlatOptimizer(flat_policy, parse(OptimizerSettings, options))
    plain = kind(plain_policy.parameters(), **arguments)
    for seed in range(20):
        batch = batch_of(32, seed)
        flat.zero_grad()
        plain.zero_grad()
        for policy in (flat_policy, plain_policy):
            output = policy.evaluate(batch.observation, batch.action["a"])
            F.mse_loss(output, batch.step["target"]).backward()
        norm = flat.clip_grad_norm(0.3)
        expected_norm = nn.utils.clip_grad_norm_(plain_policy.parameters(), 0.3)
        torch.testing.assert_close(norm, expected_norm)
        flat.torch_optimizer.step()
        plain.step()
    expected = plain_policy.state_dict()
    for name, tensor in flat.weights().items():
        np.testing.assert_allclose(tensor, expected[name].numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_an_optimizer_goes_on_bit_by_bit_from_its_saved_state(name: str) -> None:
    settings = OptimizerSettings(name=name, lr=1e-3, **({"momentum": 0.9} if name == "sgd" else {}))
    _, optimizer, update, _ = build(PLAN, settings)
    for seed in range(3):
        update(batch_of(64, seed))
    weights, state = optimizer.weights(), optimizer.state()
    _, other, other_update, _ = build(PLAN, settings)
    other.load_weights(weights)
    other.load_state(state)
    update(batch_of(64, 9))
    other_update(batch_of(64, 9))
    for key, tensor in optimizer.weights().items():
        np.testing.assert_array_equal(other.weights()[key], tensor)
    assert not np.array_equal(weights["value.bias"], optimizer.weights()["value.bias"])


def test_the_state_of_another_optimizer_is_refused() -> None:
    plain = FlatOptimizer(Regressor(4), OptimizerSettings(name="rmsprop", lr=0.1))
    plain.torch_optimizer.step()
    heavy = FlatOptimizer(Regressor(4), OptimizerSettings(name="rmsprop", lr=0.1, momentum=0.9))
    with pytest.raises(TroupeError, match="momentum_buffer was not saved"):
        heavy.load_state(plain.state())


def test_weights_of_another_network_are_refused_and_none_is_taken() -> None:
    _, small, _, _ = build(PLAN)
    before = small.weights()
    with pytest.raises(
        TroupeError, match=r"hidden.weight is \(32, 3\), this network has \(16, 3\)"
    ):
        small.load_weights(FlatOptimizer(Regressor(32), SGD).weights())
    with pytest.raises(TroupeError, match="exp_avg has 7 values for 81 parameters"):
        small.load_state({"exp_avg": np.zeros(7, np.float32)})
    for name, tensor in small.weights().items():
        np.testing.assert_array_equal(tensor, before[name])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "sgd", "lr": 0.1, "betas": [0.9, 0.99]}, "optimizer: sgd has no option betas; it has lr, momentum, weight_decay"),
        ({"name": "adam", "lr": 0.1, "alpha": 0.9}, "optimizer: adam has no option alpha"),
        ({"name": "lion", "lr": 0.1}, "optimizer.name: 'lion' is not right"),
        ({"name": "adam", "lr": 0}, "optimizer.lr: 0 is not right"),
        ({"name": "adam", "lr": 0.1, "beta": 1}, "optimizer.beta: unknown key; did you mean 'betas'?"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(OptimizerSettings, options, "optimizer")
    assert says in str(caught.value)


def test_bf16_learns_with_weights_and_loss_in_fp32() -> None:
    _, optimizer, update, _ = build(PLAN, dtype=torch.bfloat16)
    losses = [float(update(batch_of(64, seed))["loss"]) for seed in range(60)]
    assert losses[-1] < 0.1 * losses[0]
    assert {tensor.dtype for tensor in optimizer.weights().values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_fp16_scales_its_loss_and_skips_a_step_that_overflows(device: str) -> None:
    place = torch.device(device)
    _, optimizer, update, _ = build(PLAN, dtype=torch.float16, device=place)
    batch = Batch(
        {name: tensor.to(place) for name, tensor in batch_of(64).observation.items()},
        {name: tensor.to(place) for name, tensor in batch_of(64).action.items()},
        {name: tensor.to(place) for name, tensor in batch_of(64).step.items()},
    )
    first = float(update(batch)["loss"])
    for _ in range(60):
        last = float(update(batch)["loss"])
    assert last < 0.1 * first
    before = optimizer.weights()
    overflowing = replace(batch, step={"target": batch.step["target"] * 1e30})
    update(overflowing)
    for name, tensor in optimizer.weights().items():
        np.testing.assert_array_equal(tensor, before[name])
    assert np.isfinite(float(update(batch)["loss"]))


def test_the_loss_scale_is_kept() -> None:
    precision = Precision(torch.float16, CPU)
    state = precision.state()
    assert state["scale"] == 65536.0
    other = Precision(torch.float16, CPU)
    other.load_state(state | {"scale": 8.0})
    assert other.state()["scale"] == 8.0
    assert Precision(torch.bfloat16, CPU).state() == {}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_computes_what_a_cpu_does(dtype: torch.dtype) -> None:
    cuda = torch.device("cuda")
    _, there, update_there, _ = build(PLAN, dtype=dtype, device=cuda)
    _, here, update_here, _ = build(PLAN, dtype=dtype)
    batch = batch_of(64)
    columns = {
        "observation.x": batch.observation["x"].numpy(),
        "action.a": batch.action["a"].numpy(),
    }
    update_there(Batch.on(cuda, {**columns, "target": batch.step["target"].numpy()}))
    update_here(batch)
    for name, tensor in here.weights().items():
        np.testing.assert_allclose(there.weights()[name], tensor, rtol=2e-2, atol=2e-3)
