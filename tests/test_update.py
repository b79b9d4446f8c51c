"""The update loop, the flat optimizer and mixed precision, on problems small enough to know."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from troupe.config import parse
from troupe.episodes import Columns, Episodes
from troupe.errors import TroupeError, UserError
from troupe.policies import ACTION, Steps
from troupe_learners.algorithms import Batch, Group, Loss, Plan, Replay, Roles, Totals
from troupe_learners.batches import shuffled, shuffled_fragments, split
from troupe_learners.flat import FlatModule
from troupe_learners.losses import mean_square
from troupe_learners.optim import FlatOptimizer, OptimizerSettings
from troupe_learners.precision import Precision
from troupe_learners.ranks import Ranks
from troupe_learners.target import TargetNetwork
from troupe_learners.update import Learning, Update

CPU = torch.device("cpu")
CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.gpu,
)
SGD = OptimizerSettings(name="sgd", lr=0.1)


class Regressor(nn.Module):
    """A small network with the learner's side of a policy."""

    scale: Tensor

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.hidden = nn.Linear(3, hidden)
        self.value = nn.Linear(hidden, 1)
        self.register_buffer("scale", torch.tensor(1.0))

    def evaluate(self, steps: Steps, want: Collection[str]) -> dict[str, Tensor]:
        assert steps.action is not None
        x = torch.cat([steps.observation["x"], steps.action], dim=1) * self.scale
        return dict.fromkeys(want, self.value(F.relu(self.hidden(x))).squeeze(1).float())

    def group(self, name: str) -> list[nn.Parameter]:
        return list({"all": self, "hidden": self.hidden, "value": self.value}[name].parameters())


@dataclass
class Regression:
    """The simplest algorithm: predict `target`. Remembers what it was asked."""

    plan: Plan
    prepared: int = 0
    losses: list[tuple[str, Batch, Totals]] = field(default_factory=list)
    kl: float = 0.0

    def credit(self, block: Episodes) -> Columns:
        raise NotImplementedError

    def prepare(self, batch: Batch, roles: Roles) -> Batch:
        assert not torch.is_grad_enabled()
        self.prepared += 1
        return batch

    def loss(
        self, group: str, outputs: Mapping[str, Tensor], minibatch: Batch, totals: Totals
    ) -> Loss:
        self.losses.append((group, minibatch, totals))
        value = outputs["value"]
        assert value.dtype is torch.float32
        loss = mean_square(value, minibatch.step["target"], totals.steps)
        kl = torch.tensor(self.kl * minibatch.steps / totals.steps)
        error = (value - minibatch.step["target"]).detach().abs()
        scalars = {"value": value.detach().sum() / totals.steps, "approx_kl": kl}
        return Loss(loss, scalars, error)


def batch_of(steps: int, seed: int = 0, device: torch.device = CPU) -> Batch:
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.normal(size=(steps, 2)).astype(np.float32))
    a = torch.from_numpy(random.normal(size=(steps, 1)).astype(np.float32))
    target = x[:, 0] * 0.5 - a[:, 0]
    row = torch.arange(steps, device=device)
    return Batch({"x": x.to(device)}, {ACTION: a.to(device)}, {"target": target.to(device), "row": row})  # fmt: skip


def in_fragments(batch: Batch, length: list[int]) -> Batch:
    return replace(
        batch,
        fragment={"length": torch.tensor(length)},
        initial={"number": torch.arange(len(length))},
    )


def group_of(name: str = "all", settings: OptimizerSettings = SGD, every: int = 1) -> Group:
    want = frozenset({"value"})
    return Group(name=name, want=want, optimizer=settings, max_grad_norm=10.0, every=every)


def plan_of(settings: OptimizerSettings = SGD) -> Plan:
    return Plan(groups=(group_of(settings=settings),), batch=64)


@dataclass
class Built:
    """One policy that learns."""

    plan: Plan
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    def __post_init__(self) -> None:
        self.policy = Regressor().to(self.device)
        self.algorithm = Regression(self.plan)
        parameters = [self.policy.group(group.name) for group in self.plan.groups]
        self.flat = FlatModule(self.policy, parameters)
        names = [group.name for group in self.plan.groups]
        self.target = None
        if self.plan.tau is not None:
            every = self.plan.target_every
            self.target = TargetNetwork(self.policy, self.flat, names, self.plan.tau, every)
        self.optimizers = {
            group.name: FlatOptimizer(own, self.flat.values[place], group.optimizer)
            for group, own, place in zip(
                self.plan.groups, parameters, self.flat.groups, strict=True
            )
        }
        learning = Learning(
            policy=self.policy,
            target=self.target,
            optimizers=self.optimizers,
            precision=Precision(self.dtype, self.device),
            shuffle=np.random.default_rng(5),
            random=torch.Generator(self.device),
        )
        self.update = Update(self.algorithm, learning, Ranks())

    def train(self, batch: Batch, progress: float = 0.0) -> dict[str, float]:
        return self.update.on_batch(batch, progress)

    @property
    def optimizer(self) -> FlatOptimizer:
        (only,) = self.optimizers.values()
        return only

    def weights(self) -> Columns:
        return self.flat.weights()


PLAN = plan_of()


@pytest.mark.parametrize("limit", [1, 7, 32, 63])
def test_neither_loss_nor_gradient_depends_on_micro_batches(limit: int) -> None:
    batch = batch_of(64)
    whole, parts = Built(PLAN), Built(replace(PLAN, micro_batch=limit))
    expected, got = whole.train(batch), parts.train(batch)
    assert got.keys() == expected.keys() == {"loss", "value", "approx_kl", "grad_norm"}
    assert got == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(parts.optimizer.grad, whole.optimizer.grad)
    for name, tensor in whole.weights().items():
        np.testing.assert_allclose(parts.weights()[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_every_optimizer_learns_a_tiny_problem(name: str) -> None:
    lr = 0.1 if name == "sgd" else 0.01
    settings = parse(OptimizerSettings, {"name": name, "lr": lr})
    built = Built(replace(plan_of(settings), epochs=4, minibatch=16))
    losses = [built.train(batch_of(64, seed))["loss"] for seed in range(30)]
    assert losses[-1] < 0.02 < losses[0]
    assert built.algorithm.prepared == 30
    assert built.update.steps == 30 * 4 * 4


@pytest.mark.parametrize("division", [{"minibatch": 16}, {"minibatches": 4}])
def test_every_step_is_in_one_minibatch_of_each_epoch(division: Mapping[str, int]) -> None:
    built = Built(replace(PLAN, epochs=3, **division))
    built.train(batch_of(50))
    parts = [minibatch for _, minibatch, _ in built.algorithm.losses]
    assert [part.steps for part in parts] == [12, 13, 12, 13] * 3
    assert [totals.steps for *_, totals in built.algorithm.losses] == [12, 13, 12, 13] * 3
    orders = [torch.cat([p.step["row"] for p in parts[4 * e : 4 * e + 4]]) for e in range(3)]
    assert len({tuple(order.tolist()) for order in orders}) == 3
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    x = batch_of(50).observation["x"]
    torch.testing.assert_close(parts[0].observation["x"], x[parts[0].step["row"]])


def test_without_minibatches_the_batch_is_taken_as_it_is() -> None:
    batch = batch_of(50)
    assert list(shuffled(batch, 1, np.random.default_rng(0))) == [batch]


LENGTHS = [[5, 1, 9, 3, 3, 7, 2, 20], [1] * 50, [49, 1], [1, 48, 1]]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_minibatches_of_fragments_hold_them_whole(length: list[int], parts: int) -> None:
    batch = in_fragments(batch_of(50), length)
    found = list(shuffled_fragments(batch, parts, np.random.default_rng(1)))
    assert len(found) == min(parts, len(length))
    starts = np.cumsum(length) - length
    seen = []
    for part in found:
        numbers = part.initial["number"].tolist()
        assert numbers
        assert part.fragment["length"].tolist() == [length[number] for number in numbers]
        rows = [starts[number] + step for number in numbers for step in range(length[number])]
        assert part.step["row"].tolist() == rows
        torch.testing.assert_close(part.observation["x"], batch.observation["x"][rows])
        seen += numbers
    assert sorted(seen) == list(range(len(length)))


@pytest.mark.parametrize(("plan", "whole"), [({"segments": True}, True), ({}, True)])
def test_recurrent_states_keep_fragments_whole(plan: Mapping[str, bool], whole: bool) -> None:
    batch = in_fragments(batch_of(64), [8] * 8)
    built = Built(replace(PLAN, minibatch=32, micro_batch=16, **plan))
    built.train(batch)
    for _, part, totals in built.algorithm.losses:
        assert part.fragment["length"].tolist() == [8, 8]
        assert totals.steps == 32


def test_parts_are_even_and_within_the_limit() -> None:
    assert [part.steps for part in split(batch_of(50), 16)] == [12, 13, 12, 13]
    assert [part.steps for part in split(batch_of(50), None)] == [50]
    fragments = in_fragments(batch_of(50), [10, 3, 3, 20, 4, 10])
    assert [part.steps for part in split(fragments, 16, whole=True)] == [16, 20, 14]


def test_groups_are_trained_apart_and_one_may_wait() -> None:
    adam = OptimizerSettings(name="adam", lr=0.01)
    groups = (group_of("value"), group_of("hidden", adam, every=2))
    built = Built(Plan(groups=groups, batch=64, minibatches=5))
    before = built.weights()
    scalars = built.train(batch_of(64))
    assert [group for group, *_ in built.algorithm.losses] == [
        "value", "value", "hidden", "value", "value", "hidden", "value",
    ]  # fmt: skip
    assert {"value_loss", "value_grad_norm", "hidden_loss", "hidden_grad_norm"} < scalars.keys()
    assert built.optimizers["hidden"].state()["step"] == 2
    for name, tensor in built.weights().items():
        assert name == "scale" or not np.array_equal(tensor, before[name])


def test_a_group_leaves_the_parameters_of_others_alone() -> None:
    built = Built(Plan(groups=(group_of("value"),), batch=64))
    before = built.weights()
    built.train(batch_of(64))
    for name, tensor in built.weights().items():
        changed = not np.array_equal(tensor, before[name])
        assert changed == name.startswith("value")


def test_a_parameter_of_two_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="two groups"):
        Built(Plan(groups=(group_of("value"), group_of("all")), batch=64))


def test_learning_rates_fall_with_progress() -> None:
    built = Built(replace(PLAN, anneal=True))
    before = built.weights()
    built.train(batch_of(64), progress=1.0)
    np.testing.assert_array_equal(built.weights()["value.bias"], before["value.bias"])
    full, quarter = Built(PLAN), Built(replace(PLAN, anneal=True))
    full.train(batch_of(64), progress=0.75)
    quarter.train(batch_of(64), progress=0.75)
    step = full.weights()["value.bias"] - before["value.bias"]
    np.testing.assert_allclose(
        quarter.weights()["value.bias"] - before["value.bias"], step / 4, rtol=1e-5
    )


@pytest.mark.parametrize(("kl", "steps"), [(0.9, 8), (1.1, 0)])
def test_a_batch_is_left_before_a_step_that_would_go_too_far(kl: float, steps: int) -> None:
    built = Built(replace(PLAN, epochs=2, minibatches=4, micro_batch=5, max_kl=1.0))
    built.algorithm.kl = kl
    assert built.train(batch_of(64))["approx_kl"] == pytest.approx(kl)
    assert built.update.steps == steps


@pytest.mark.parametrize("steps", [64, 62])
def test_a_column_is_normalised_over_each_minibatch(steps: int) -> None:
    built = Built(replace(PLAN, minibatches=4, micro_batch=7, normalise="target"))
    batch = batch_of(steps)
    built.train(batch)
    parts = [part.step for _, part, _ in built.algorithm.losses]
    rows = torch.cat([part["row"] for part in parts])
    normal = torch.cat([part["target"] for part in parts])
    sizes = [steps * (i + 1) // 4 - steps * i // 4 for i in range(4)]
    for mine, its in zip(normal.split(sizes), rows.split(sizes), strict=True):
        raw = batch.step["target"][its]
        torch.testing.assert_close(mine, (raw - raw.mean()) / (raw.std() + 1e-8))


@pytest.mark.parametrize("tau", [0.25, 1.0])
def test_the_target_follows_and_shares_statistics(tau: float) -> None:
    built = Built(replace(PLAN, tau=tau, target_every=2))
    assert built.target is not None
    copied = built.target.policy
    assert isinstance(copied, Regressor)
    expected = copied.value.bias.clone()
    for step in range(1, 7):
        built.train(batch_of(64, step))
        if step % 2 == 0:
            expected += tau * (built.policy.value.bias - expected)
        torch.testing.assert_close(copied.value.bias, expected)
    built.policy.scale.fill_(2.0)
    assert copied.scale == 2.0
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    other = Built(replace(PLAN, tau=tau))
    assert other.target is not None
    other.target.load_state(built.target.state())
    np.testing.assert_array_equal(other.target.state(), built.target.state())
    with pytest.raises(TroupeError, match="target: 3 parameters"):
        other.target.load_state(np.zeros(3, np.float32))


def test_samples_of_replay_are_rated() -> None:
    replay = Replay(capacity=100, batch=32, updates_per_step=1.0, learning_starts=10)
    built = Built(replace(PLAN, replay=replay, micro_batch=9))
    rated = []
    draw: Callable[[int, np.random.Generator, float], Batch] = lambda count, *_: batch_of(count)  # noqa: E731
    scalars = built.update.on_samples(
        draw, lambda batch, error: rated.append((batch.steps, error.shape)), 3, 0.5
    )
    assert rated == [(32, (32,))] * 3
    assert built.update.steps == built.algorithm.prepared == 3
    assert scalars["loss"] > 0


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
    built, plain_policy = Built(plan_of(parse(OptimizerSettings, options))), Regressor()
    flat = built.optimizer
    plain = kind(plain_policy.parameters(), **arguments)
    for seed in range(20):
        batch = batch_of(32, seed)
        flat.zero_grad()
        plain.zero_grad()
        for policy in (built.policy, plain_policy):
            output = policy.evaluate(batch.evaluated(), ["value"])["value"]
            F.mse_loss(output, batch.step["target"]).backward()
        norm = flat.clip_grad_norm(0.3)
        expected_norm = nn.utils.clip_grad_norm_(plain_policy.parameters(), 0.3)
        torch.testing.assert_close(norm, expected_norm)
        flat.torch_optimizer.step()
        plain.step()
    expected = plain_policy.state_dict()
    for name, tensor in built.weights().items():
        np.testing.assert_allclose(tensor, expected[name].numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_an_optimizer_goes_on_bit_by_bit_from_its_saved_state(name: str) -> None:
    settings = OptimizerSettings(name=name, lr=1e-3, **({"momentum": 0.9} if name == "sgd" else {}))
    built = Built(plan_of(settings))
    for seed in range(3):
        built.train(batch_of(64, seed))
    weights, state = built.weights(), built.optimizer.state()
    other = Built(plan_of(settings))
    other.flat.load_weights(weights)
    other.optimizer.load_state(state)
    built.train(batch_of(64, 9))
    other.train(batch_of(64, 9))
    for key, tensor in built.weights().items():
        np.testing.assert_array_equal(other.weights()[key], tensor)
    assert not np.array_equal(weights["value.bias"], built.weights()["value.bias"])


def test_the_state_of_another_optimizer_is_refused() -> None:
    plain = Built(plan_of(OptimizerSettings(name="rmsprop", lr=0.1))).optimizer
    plain.torch_optimizer.step()
    heavy = Built(plan_of(OptimizerSettings(name="rmsprop", lr=0.1, momentum=0.9))).optimizer
    with pytest.raises(TroupeError, match="momentum_buffer was not saved"):
        heavy.load_state(plain.state())


def test_weights_of_another_network_are_refused_and_none_is_taken() -> None:
    small = Built(PLAN)
    before = small.weights()
    with pytest.raises(
        TroupeError, match=r"hidden.weight is \(32, 3\), this network has \(16, 3\)"
    ):
        small.flat.load_weights(FlatModule(Regressor(32)).weights())
    with pytest.raises(TroupeError, match="exp_avg has 7 values for 81 parameters"):
        small.optimizer.load_state({"exp_avg": np.zeros(7, np.float32)})
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
    built = Built(PLAN, dtype=torch.bfloat16)
    losses = [built.train(batch_of(64, seed))["loss"] for seed in range(60)]
    assert losses[-1] < 0.1 * losses[0]
    assert {tensor.dtype for tensor in built.weights().values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_fp16_scales_its_loss_and_skips_a_step_that_overflows(device: str) -> None:
    place = torch.device(device)
    built = Built(PLAN, dtype=torch.float16, device=place)
    batch = batch_of(64, device=place)
    first = built.train(batch)["loss"]
    for _ in range(60):
        last = built.train(batch)["loss"]
    assert last < 0.1 * first
    before = built.weights()
    built.train(replace(batch, step={"target": batch.step["target"] * 1e30}))
    for name, tensor in built.weights().items():
        np.testing.assert_array_equal(tensor, before[name])
    assert np.isfinite(built.train(batch)["loss"])


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
    there, here = Built(PLAN, dtype, cuda), Built(PLAN, dtype)
    there.train(batch_of(64, device=cuda))
    here.train(batch_of(64))
    for name, tensor in here.weights().items():
        np.testing.assert_allclose(there.weights()[name], tensor, rtol=2e-2, atol=2e-3)
