"""PPO: golden advantages through its own path, a plain reference of its loss, and runs that learn."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from control_loop import CPU, NETWORK, train
from gymnasium import spaces as gym
from told import Told, roles, told

from troupe import policies
from troupe.config import dump, parse
from troupe.episodes import Ending
from troupe.errors import UserError
from troupe.jobs.spec import NetworkSettings
from troupe.policies import Spaces
from troupe_actors import environments
from troupe_actors.environments import Seeds
from troupe_actors.recorder import Author
from troupe_actors.rollout import EnvironmentLoop
from troupe_actors.selfplay import Player
from troupe_learners import batches
from troupe_learners.algorithms import Adaptive, Batch, Roles, Totals
from troupe_learners.batches import Piece
from troupe_learners.on_policy import RunningReturns
from troupe_learners.optim import OptimizerSettings
from troupe_learners.ppo import Algorithm, Config, defaults
from troupe_learners.trainee import Hardware, Trainee

RIGHT = [4.62704, 4.982, 4.1, 3.2, 9.572, 6.35]
WRONG = {
    "truncation ends the future": [3.69392, 3.686, 2.3, 3.2, 9.572, 6.35],
    "truncation does not cut": [5.821434, 6.64088, 6.404, 3.2, 9.572, 6.35],
    "nothing cuts": [8.393799, 10.21361, 11.366125, 10.09184, 9.572, 6.35],
    "from the reset observation": [4.067168, 4.2044, 3.02, 3.2, 9.572, 6.35],
}
GOLDEN = {"gamma": 0.9, "gae_lambda": 0.8, "normalise": "none"}
LOGIT = [0.4, -0.3, 0.2, 0.0, 1.0, -1.0]


class Recall(gymnasium.Env[Any, Any]):
    """Shows a cue at the first of four steps and never again; pays for repeating it at the last."""

    observation_space = gym.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cue, self.left = int(self.np_random.integers(2)), 4
        return np.array([2 * self.cue - 1, 0], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        done = self.left == 0
        seen = np.array([0, self.left == 1], np.float32)
        return seen, float(done and action == self.cue), done, False, {}


class Aim(gymnasium.Env[Any, Any]):
    """One step: the nearer the two numbers of the action are to those seen, the better."""

    observation_space = gym.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.mark = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.mark, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.mark, -100.0 * float(np.square(action - self.mark).sum()), True, False, {}


@torch.no_grad()
def begun(algorithm: Algorithm, batch: Batch, roles: Roles) -> Batch:
    return algorithm.prepare(batch, roles)


def prepared(batch: Batch, **options: object) -> Batch:
    return begun(Algorithm(parse(Config, options)), batch, roles(Told()))


def loss_of(algorithm: Algorithm, policy: Told, batch: Batch) -> tuple[float, dict[str, float]]:
    """The loss of a whole batch, its gradient in the policy, and its metrics."""
    outputs = policy.evaluate(batch.evaluated(), algorithm.plan.groups[0].want)
    loss = algorithm.loss("all", outputs, batch, Totals(batch.steps))
    policy.zero_grad()
    loss.total.backward()
    return loss.total.item(), {name: value.item() for name, value in loss.metrics.items()}


# Credit


def test_advantages_are_the_right_ones_of_five() -> None:
    got = prepared(told(), **GOLDEN).step["advantage"].tolist()
    assert got == pytest.approx(RIGHT)
    for mistake, advantage in WRONG.items():
        assert got != pytest.approx(advantage), mistake


def test_a_batch_that_says_something_else_of_its_ends_has_other_advantages() -> None:
    ends = [Ending.TERMINATED, Ending.TERMINATED, Ending.CUT]
    terminated = prepared(told(ending=ends), **GOLDEN).step["advantage"]
    assert terminated.tolist() == pytest.approx(WRONG["truncation ends the future"])
    reset = prepared(told(final=[0.8, 3.0, 1.5]), **GOLDEN).step["advantage"]
    assert reset.tolist() == pytest.approx(WRONG["from the reset observation"])


def test_targets_are_advantages_and_values() -> None:
    for normalise in ("none", "batch", "minibatch"):
        got = prepared(told(), **{**GOLDEN, "normalise": normalise}).step
        values = got["value"].tolist()
        targets = [a + v for a, v in zip(RIGHT, values, strict=True)]
        assert got["target"].tolist() == pytest.approx(targets)


def test_advantages_are_normalised_over_the_batch_or_over_minibatches() -> None:
    batch = prepared(told(), **{**GOLDEN, "normalise": "batch"}).step["advantage"]
    assert batch.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert batch.std().item() == pytest.approx(1.0, abs=1e-5)
    assert Algorithm(Config()).plan.normalise == "advantage"
    assert Algorithm(Config(normalise="batch")).plan.normalise is None


# What the ratio is measured from


def rollout(network: NetworkSettings, trainee: Trainee, name: str = "CartPole-v1") -> Batch:
    """What an actor plays with a trainee's weights."""
    driver = environments.create(name, {}, 3)
    acting = policies.create_acting(driver.spaces, network, CPU, torch.float32)
    acting.load(trainee.weights())
    player = Player("agent", (0,), driver.spaces, acting)
    loop = EnvironmentLoop(driver, player, 40, Author("actor-0", 0, 1))
    loop.begin(driver.reset(Seeds(1, "actor", 0)))
    block = loop.play(np.random.default_rng(1), exploration=1.0).block
    driver.close()
    return batches.join([Piece(block, {})], CPU)


def learner(
    network: NetworkSettings,
    algorithm: Algorithm,
    name: str = "CartPole-v1",
    dtype: torch.dtype = torch.float32,
) -> Trainee:
    driver = environments.create(name, {}, 1)
    driver.close()
    return Trainee("agent", driver.spaces, network, algorithm, Hardware(CPU, dtype), seed=1)


@pytest.mark.parametrize("recurrent", [0, 8])
@pytest.mark.parametrize("measured", ["actor", "learner"])
@pytest.mark.parametrize("environment", ["CartPole-v1", f"{__name__}:Aim"])
def test_the_first_ratio_is_1(environment: str, measured: str, recurrent: int) -> None:
    options = {**NETWORK, "recurrent": recurrent, "normalise_observation": True}
    network = parse(NetworkSettings, options)
    algorithm = Algorithm(Config(old_log_prob=measured))  # type: ignore[arg-type]
    trainee = learner(network, algorithm, environment)
    for _ in range(2):  # of fresh statistics, and of some that were merged
        batch = rollout(network, trainee, environment)
        said = Roles(trainee.policy, trainee.policy, 0.0, lambda t: t, torch.Generator())
        ready = begun(algorithm, batch, said)
        outputs = trainee.policy.evaluate(ready.evaluated(), algorithm.plan.groups[0].want)
        ratio = (outputs["log_prob"] - ready.step["old_log_prob"]).exp()
        assert (ratio - 1.0).abs().max().item() < 1e-5
        weight = ready.step.get("weight", torch.ones(()))
        assert (weight - 1.0).abs().max().item() < 1e-5
        loss = algorithm.loss("all", outputs, ready, Totals(batch.steps))
        assert loss.metrics["approx_kl"].item() == pytest.approx(0.0, abs=1e-6)
        assert loss.metrics["clip_fraction"].item() == 0.0
        with torch.no_grad():
            algorithm.after(ready, said)


def test_in_half_precision_the_learner_measures_as_finely_as_it_trains() -> None:
    network = parse(NetworkSettings, NETWORK)
    optimizer = OptimizerSettings(name="adam", lr=0.02)
    algorithm = Algorithm(
        Config(epochs=1, minibatches=1, old_log_prob="learner", optimizer=optimizer)
    )
    trainee = learner(network, algorithm, dtype=torch.bfloat16)
    for _ in range(6):
        looks = trainee._update.on_batch(rollout(network, trainee), 0.0)
        assert looks["approx_kl"] < 1e-7
    assert looks["entropy"] < 0.69  # the policy has moved from even chances


def test_stale_steps_are_measured_from_who_acted_or_weighed() -> None:
    stale = [math.log(0.5) - d for d in (0.0, 0.3, -0.3, 1.0, -1.0, 0.1)]
    by_actor = prepared(told(log_prob=stale), old_log_prob="actor").step
    assert by_actor["old_log_prob"].tolist() == pytest.approx(stale)
    assert "weight" not in by_actor
    by_learner = prepared(told(log_prob=stale), old_log_prob="learner").step
    assert by_learner["old_log_prob"].tolist() == pytest.approx([math.log(0.5)] * 6)
    assert by_learner["weight"].tolist() == pytest.approx(
        [1.0, math.exp(0.3), math.exp(-0.3), 0.0, 0.0, math.exp(0.1)]
    )
    naive = prepared(told(log_prob=stale), old_log_prob="learner", trust=None).step
    assert "weight" not in naive


def test_one_step_a_batch_is_measured_from_the_actor_and_several_from_the_learner() -> None:
    stale = [math.log(0.5) - 0.1] * 6
    one = prepared(told(log_prob=stale), epochs=1, minibatches=1).step
    assert one["old_log_prob"].tolist() == pytest.approx(stale)
    several = prepared(told(log_prob=stale), epochs=2, minibatches=1).step
    assert several["old_log_prob"].tolist() == pytest.approx([math.log(0.5)] * 6)


# The loss


def plain_loss(
    logit: list[torch.Tensor],
    old: list[float],
    advantage: list[float],
    value: list[torch.Tensor],
    old_value: list[float],
    target: list[float],
    options: dict[str, Any],
) -> torch.Tensor:
    """The papers' objectives, one step after the other; action 0 of two was taken."""
    terms = []
    for x, before, a, v, v_before, goal in zip(
        logit, old, advantage, value, old_value, target, strict=True
    ):
        p = 1 / (1 + torch.exp(-x))
        ratio = p / math.exp(before)
        if options.get("objective") == "penalty":
            q = math.exp(before)
            forward = q * torch.log(q / p) + (1 - q) * torch.log((1 - q) / (1 - p))
            reverse = p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))
            penalty = options["penalty"]
            kl = reverse if penalty.get("reverse") else forward
            policy = -(ratio * a) + penalty["coefficient"] * kl
        else:
            low, high = options["clip"]
            held = min(max(ratio, torch.tensor(1 - low)), torch.tensor(1 + high))
            policy = -min(ratio * a, held * a)
        error = (v - goal) ** 2 / 2
        if "value_clip" in options:
            near = v_before + max(min(v - v_before, options["value_clip"]), -options["value_clip"])
            error = max(error, torch.as_tensor((near - goal) ** 2 / 2))
        entropy = -p * torch.log(p) - (1 - p) * torch.log(1 - p)
        extra = options.get("entropy", 0.0)
        terms.append(policy + options.get("value_coefficient", 0.5) * error - extra * entropy)
    return sum(terms) / len(terms)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "options",
    [
        {"clip": (0.2, 0.2)},
        {"clip": (0.1, 0.3), "entropy": 0.05, "value_coefficient": 0.3},
        {"clip": (0.2, 0.2), "value_clip": 0.02},
        {"objective": "penalty", "penalty": {"coefficient": 3.0}},
        {"objective": "penalty", "penalty": {"coefficient": 3.0, "reverse": True}},
    ],
)
def test_loss_and_gradient_are_those_of_a_plain_reference(options: dict[str, Any]) -> None:
    policy, algorithm = Told(), Algorithm(parse(Config, {**GOLDEN, **options}))
    batch = begun(algorithm, told(logit=LOGIT), roles(policy))
    signed = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    advantage = batch.step["advantage"] * signed
    batch = batch.with_steps({"advantage": advantage, "target": batch.step["value"] + advantage})
    old, before = batch.step["old_log_prob"].tolist(), batch.step["value"].tolist()
    with torch.no_grad():  # as far as an update might have gone
        policy.shift += 0.6
        policy.value += 0.03
    value, shift = policy.value.detach().clone(), policy.shift.detach().clone()
    value.requires_grad_()
    shift.requires_grad_()
    expected = plain_loss(
        [torch.tensor(x) + shift for x in LOGIT],
        old,
        batch.step["advantage"].tolist(),
        [value * v for v in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)],
        before,
        batch.step["target"].tolist(),
        options,
    )
    expected.backward()
    got, metrics = loss_of(algorithm, policy, batch)
    assert got == pytest.approx(expected.item(), rel=1e-5)
    assert policy.shift.grad is not None
    assert policy.value.grad is not None
    assert policy.shift.grad.item() == pytest.approx(shift.grad.item(), rel=1e-4)  # type: ignore[union-attr]
    assert policy.value.grad.item() == pytest.approx(value.grad.item(), rel=1e-4)  # type: ignore[union-attr]
    assert metrics["approx_kl"] > 0.0


def test_entropy_is_a_bonus() -> None:
    policy, algorithm = Told(), Algorithm(Config(entropy=1.0, value_coefficient=0.0))
    batch = begun(algorithm, told(logit=[2.0] * 6), roles(policy))
    batch = batch.with_steps({"advantage": torch.zeros(6)})
    _, metrics = loss_of(algorithm, policy, batch)
    assert policy.shift.grad is not None
    assert policy.shift.grad.item() > 0.0  # descent makes action 0, which is likely, less so
    assert metrics["entropy"] == pytest.approx(0.365335, abs=1e-5)


def test_a_weight_of_0_silences_a_step() -> None:
    stale = [math.log(0.5) + 3.0, *[math.log(0.5)] * 5]
    grads = []
    for advantage in (5.0, -7.0):
        policy, algorithm = Told(), Algorithm(Config())
        batch = begun(algorithm, told(log_prob=stale), roles(policy))
        a = torch.tensor([advantage, 1.0, 1.0, 1.0, 1.0, 1.0])
        loss_of(algorithm, policy, batch.with_steps({"advantage": a}))
        assert policy.shift.grad is not None
        grads.append(policy.shift.grad.item())
    assert grads[0] == grads[1]


def test_the_clip_closes_by_the_runs_end() -> None:
    fractions = []
    for progress in (0.0, 0.5, 1.0):
        policy, algorithm = Told(), Algorithm(Config(clip=0.2, anneal_clip=True))
        batch = begun(algorithm, told(), roles(policy, progress=progress))
        with torch.no_grad():
            policy.shift += 0.28  # a ratio of 1.139
        fractions.append(loss_of(algorithm, policy, batch)[1]["clip_fraction"])
    assert fractions == [0.0, 1.0, 1.0]


# Penalty and magnet


@pytest.mark.parametrize(
    ("shift", "beta"), [(0.0, 0.5), (0.1, 0.5), (0.28, 1.0), (0.5, 2.0), (3.0, 2.0)]
)
def test_the_penalty_follows_the_kl_of_the_whole_batch(shift: float, beta: float) -> None:
    """From even chances, KL(old||new) is log cosh(shift / 2): 0.0097 at 0.28, 0.031 at 0.5."""
    policy, algorithm = Told(), Algorithm(Config(objective="penalty"))
    said = roles(policy)
    batch = begun(algorithm, told(), said)
    with torch.no_grad():
        policy.shift += shift
        looks = algorithm.after(batch, said)
    assert looks["beta"].item() == algorithm.state()["beta"] == beta


def test_the_penalty_is_capped_fixed_or_restored() -> None:
    policy = Told()
    for penalty, beta in (({"most": 1.5}, 1.5), ({"target": None}, 1.0)):
        options = {"objective": "penalty", "penalty": penalty}
        algorithm = Algorithm(parse(Config, options))
        said = roles(policy)
        batch = begun(algorithm, told(), said)
        with torch.no_grad():
            policy.shift += 3.0
            algorithm.after(batch, said)
            policy.shift -= 3.0
        assert algorithm.state()["beta"] == beta
    other = Algorithm(Config(objective="penalty"))
    other.restore({"beta": 0.25})
    assert other.state()["beta"] == 0.25
    assert isinstance(other, Adaptive)


def test_a_uniform_magnet_is_an_entropy_bonus() -> None:
    grads = []
    for options in ({"entropy": 0.2}, {"magnet": {"coefficient": 0.2}}):
        policy, algorithm = Told(), Algorithm(parse(Config, options))
        loss_of(algorithm, policy, begun(algorithm, told(logit=LOGIT), roles(policy)))
        assert policy.shift.grad is not None
        grads.append(policy.shift.grad.item())
    assert grads[0] == grads[1]


def test_a_moving_magnet_pulls_the_policy_to_itself() -> None:
    options = {"magnet": {"coefficient": 0.5, "kind": "moving", "tau": 0.01}}
    algorithm = Algorithm(parse(Config, {**options, "value_coefficient": 0.0}))
    assert algorithm.plan.tau == 0.01
    policy, magnet = Told(), Told()
    with torch.no_grad():
        magnet.shift -= 1.0
    batch = begun(algorithm, told(), roles(policy, magnet))
    batch = batch.with_steps({"advantage": torch.zeros(6)})
    loss, metrics = loss_of(algorithm, policy, batch)
    p, q = 0.5, 1 / (1 + math.e)
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert metrics["magnet_kl"] == pytest.approx(kl, rel=1e-5)
    assert loss == pytest.approx(0.5 * kl, rel=1e-5)
    assert policy.shift.grad is not None
    assert policy.shift.grad.item() == pytest.approx(0.5 * p * (1 - p) * 1.0, rel=1e-4)
    alone = begun(algorithm, told(), roles(policy, policy))
    assert loss_of(algorithm, policy, alone)[1]["magnet_kl"] == pytest.approx(0.0, abs=1e-7)


def test_a_magnet_lets_go_as_it_is_told() -> None:
    pulls = []
    for progress in (0.0, 0.5, 1.0):
        algorithm = Algorithm(parse(Config, {"magnet": {"coefficient": 0.4, "final": 0.1}}))
        policy = Told()
        batch = begun(algorithm, told(logit=[1.0] * 6), roles(policy, progress=progress))
        loss_of(algorithm, policy, batch.with_steps({"advantage": torch.zeros(6)}))
        assert policy.shift.grad is not None
        pulls.append(policy.shift.grad.item())
    assert [pull / pulls[0] for pull in pulls] == pytest.approx([1.0, 0.625, 0.25])


def test_nothing_is_uniform_over_numbers() -> None:
    box = Spaces({"observation": gym.Box(-1, 1, (2,))}, gym.Box(-1, 1, (1,)))
    settings = parse(Config, {"magnet": {"coefficient": 0.1}})
    with pytest.raises(UserError, match=r"algorithm\.magnet\.kind"):
        defaults(settings, box)
    network = defaults(Config(), box)["network"]
    assert parse(NetworkSettings, network).kind == "actor_critic"


def test_options_survive_the_job_file() -> None:
    settings = parse(Config, {"clip": [0.1, 0.3], "magnet": {"coefficient": 0.1}, "trust": None})
    assert settings.clip == (0.1, 0.3)
    assert parse(Config, dump(settings)) == settings
    assert parse(Config, dump(Config())) == Config()


# The update loop


@pytest.mark.parametrize("recurrent", [0, 8])
def test_micro_batches_change_nothing(recurrent: int) -> None:
    network = parse(NetworkSettings, {**NETWORK, "recurrent": recurrent})
    weights = []
    for limit in (None, 17):
        algorithm = Algorithm(Config(micro_batch=limit, epochs=2, minibatches=2))
        trainee = learner(network, algorithm)
        batch = rollout(network, trainee)
        trainee._update.on_batch(batch, 0.0)
        weights.append(trainee.weights())
    for name, tensor in weights[0].items():
        np.testing.assert_allclose(tensor, weights[1][name], atol=2e-5)


def test_a_batch_is_left_when_the_policy_has_gone_far_enough() -> None:
    network = parse(NetworkSettings, NETWORK)
    made = []
    for target in (None, 0.003):
        trainee = learner(network, Algorithm(Config(target_kl=target, epochs=10)))
        trainee._update.on_batch(rollout(network, trainee), 0.0)
        made.append(trainee._update.steps)
    assert made[0] == 40
    assert 1 <= made[1] < 40


# Normalisers


def test_running_returns_go_on_across_fragments_and_batches() -> None:
    random = np.random.default_rng(0)
    ends = [Ending.CUT, Ending.TERMINATED, Ending.TRUNCATED]
    running, carried = RunningReturns(0.9), dict.fromkeys(range(3), 0.0)
    for _ in range(4):
        length = random.integers(1, 6, 7)
        ending, stream = random.choice(ends, 7), np.sort(random.integers(0, 3, 7))
        reward = random.normal(size=length.sum()).astype(np.float32)
        batch = Batch(
            observation={},
            action={},
            step={"reward": torch.from_numpy(reward)},
            fragment={
                "length": torch.from_numpy(length),
                "ending": torch.from_numpy(ending.astype(np.uint8)),
                "stream": torch.from_numpy(stream),
            },
        )
        expected, left = [], iter(reward.astype(np.float64))
        for steps, end, where in zip(length, ending, stream, strict=True):
            for _ in range(steps):
                carried[where] = 0.9 * carried[where] + next(left)
                expected.append(carried[where])
            if end != Ending.CUT:
                carried[where] = 0.0
        assert running(batch).tolist() == pytest.approx(expected)
    assert {k: v for k, v in carried.items() if v} == pytest.approx(running.open)


def test_rewards_are_scaled_at_once_and_observations_only_after_the_batch() -> None:
    options = {**NETWORK, "normalise_observation": True, "normalise_reward": True}
    network = parse(NetworkSettings, options)
    algorithm = Algorithm(Config(normalise="none", gae_lambda=0.0, gamma=0.5))
    trainee = learner(network, algorithm)
    batch = rollout(network, trainee)
    said = Roles(trainee.policy, trainee.policy, 0.0, lambda t: t, torch.Generator())
    before = trainee.weights()
    ready = begun(algorithm, batch, said)
    between = trainee.weights()
    with torch.no_grad():
        algorithm.after(ready, said)
    after = trainee.weights()
    statistics = [name for name in before if name not in dict(trainee.policy.named_parameters())]
    rewards = [name for name in statistics if name.startswith("returns")]
    observations = [name for name in statistics if name not in rewards]
    assert rewards
    assert observations
    for name in rewards:
        assert not np.array_equal(before[name], between[name])
        np.testing.assert_array_equal(between[name], after[name])
    for name in observations:
        np.testing.assert_array_equal(before[name], between[name])
    assert any(not np.array_equal(between[name], after[name]) for name in observations)
    resumed = Algorithm(Config(gamma=0.5))
    resumed.restore(algorithm.state())
    assert resumed.state() == algorithm.state()
    assert len(algorithm.state()) == 1 + 3  # beta, and three environments' open episodes


# Learning


def test_it_learns_cartpole() -> None:
    assert train("CartPole-v1", {"name": "ppo"}, count=4, rollout=128, turns=80, enough=150) >= 150


def test_a_recurrent_policy_remembers_what_it_saw() -> None:
    options = {"name": "ppo", "optimizer": {"name": "adam", "lr": 3e-3}, "gae_lambda": 1.0}
    network = {"hidden": 16, "layers": 1, "recurrent": 16}
    reached = train(
        f"{__name__}:Recall", options, network=network, count=8, rollout=32, turns=150, enough=0.97
    )
    assert reached >= 0.97
    network["recurrent"] = 0
    blind = train(
        f"{__name__}:Recall", options, network=network, count=8, rollout=32, turns=40, enough=0.97
    )
    assert blind < 0.8


@pytest.mark.parametrize("objective", ["clip", "penalty"])
def test_it_learns_numbers_from_rewards_of_any_size(objective: str) -> None:
    options = {
        "name": "ppo",
        "objective": objective,
        "optimizer": {"name": "adam", "lr": 3e-3},
        "epochs": 8,
    }
    network = {"hidden": 16, "normalise_reward": True, "normalise_observation": True}
    reached = train(
        f"{__name__}:Aim", options, network=network, count=8, rollout=32, turns=120, enough=-10.0
    )
    assert reached >= -10.0  # -176 at first
