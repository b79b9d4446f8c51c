"""DDPG and TD3: targets and gradients against a plain reference, and control that is really learned."""

from collections.abc import Collection
from typing import cast

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym
from torch import Tensor, nn

from troupe.config import parse
from troupe.errors import UserError
from troupe.policies import Policy, Spaces, Steps
from troupe_learners.algorithms import Batch, Roles, Totals
from troupe_learners.ddpg import Algorithm, Config, defaults

LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])


class Plain(nn.Module):
    """A deterministic policy with two critics, written as in a textbook."""

    def __init__(self, seed: int, critics: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.low, self.high = LOW, HIGH
        self.actor = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2), nn.Sigmoid())
        self.critics = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)) for _ in range(critics)
        )

    def act(self, x: Tensor) -> Tensor:
        return cast(Tensor, LOW + (HIGH - LOW) * self.actor(x))

    def q(self, x: Tensor, action: Tensor, critic: int) -> Tensor:
        return cast(Tensor, self.critics[critic](torch.cat([x, action], 1)).squeeze(1))

    def evaluate(self, steps: Steps, want: Collection[str]) -> dict[str, Tensor]:
        x, given = steps.observation["x"], {}
        if "policy_action" in want:
            given["policy_action"] = self.act(x)
        if "policy_value" in want:
            self.critics.requires_grad_(False)
            given["policy_value"] = self.q(x, self.act(x), 0)
            self.critics.requires_grad_(True)
        if "value" in want:
            assert steps.action is not None
            value = [self.q(x, steps.action, k) for k in range(len(self.critics))]
            given["value"] = torch.stack(value, 1) if len(value) > 1 else value[0]
        return given

    def group(self, name: str) -> list[nn.Parameter]:
        return list((self.actor if name == "actor" else self.critics).parameters())


def batch_of(steps: int, *, weighted: bool = False) -> Batch:
    torch.manual_seed(1)
    step = {
        "reward": torch.randn(steps),
        "discount": torch.where(torch.rand(steps) < 0.3, 0.0, 0.9),
        "next.x": torch.randn(steps, 3),
    }
    if weighted:
        step["weight"] = torch.rand(steps)
    action = LOW + (HIGH - LOW) * torch.rand(steps, 2)
    return Batch({"x": torch.randn(steps, 3)}, {"action": action}, step)


def roles(policy: Plain, target: Plain) -> Roles:
    return Roles(
        policy=cast(Policy, policy),
        target=cast(Policy, target),
        progress=0.0,
        add_up=lambda tensor: tensor,
        random=torch.Generator().manual_seed(6),
    )


TD3 = {"twin": True, "policy_delay": 2, "smoothing": {}}


@pytest.mark.parametrize(
    "options",
    [{}, {"prioritised": {}}, {"twin": True}, {"smoothing": {"noise": 2.0, "clip": 0.3}}, TD3],
)
def test_targets_and_gradients_are_those_of_a_loop_over_steps(options: dict[str, object]) -> None:
    settings = parse(Config, options)
    policy, target = (Plain(seed, 2 if settings.twin else 1) for seed in (2, 3))
    batch = batch_of(17, weighted=settings.prioritised is not None)
    algorithm = Algorithm(settings)
    with torch.no_grad():
        prepared = algorithm.prepare(batch, roles(policy, target))

    noise = torch.empty(17, 2)
    if settings.smoothing is not None:
        noise.normal_(0.0, settings.smoothing.noise, generator=torch.Generator().manual_seed(6))
    critic_loss, actor_loss, errors = torch.zeros(()), torch.zeros(()), []
    for i in range(17):
        x, action = batch.observation["x"][[i]], batch.action["action"][[i]]
        after = batch.step["next.x"][[i]]
        best = target.act(after)
        if settings.smoothing is not None:
            limit = settings.smoothing.clip
            shift = noise[i].clamp(-limit, limit) * torch.tensor([2.0, 0.5])
            best = torch.minimum(torch.maximum(best + shift, LOW), HIGH)
        q = min(target.q(after, best, k).item() for k in range(len(target.critics)))
        y = batch.step["reward"][i].item() + batch.step["discount"][i].item() * q
        assert prepared.step["target"][i].item() == pytest.approx(y, rel=1e-5)
        weight = batch.step["weight"][i] if settings.prioritised else 1.0
        error = torch.stack([policy.q(x, action, k) - y for k in range(len(policy.critics))])
        errors.append(error.detach().abs().mean())
        critic_loss = critic_loss + weight * 0.5 * error.square().sum() / 17
        actor_loss = actor_loss - policy.q(x, policy.act(x), 0).sum() / 17

    for group, expected in (("critic", critic_loss), ("actor", actor_loss)):
        own = policy.group(group)
        gradient = torch.autograd.grad(expected, own, retain_graph=True, allow_unused=True)
        policy.zero_grad()
        (want,) = (g.want for g in algorithm.plan.groups if g.name == group)
        outputs = policy.evaluate(prepared.evaluated(), want)
        loss = algorithm.loss(group, outputs, prepared, Totals(17))
        loss.total.backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(loss.total, expected)
        for parameter, right in zip(own, gradient, strict=True):
            torch.testing.assert_close(parameter.grad, right)
        others = policy.group("actor" if group == "critic" else "critic")
        assert all(p.grad is None for p in others), "each group is trained by its own loss alone"
        if group == "critic" and settings.prioritised is not None:
            torch.testing.assert_close(loss.priority, torch.stack(errors))
        else:
            assert loss.priority is None


def test_td3_delays_its_actor() -> None:
    groups = Algorithm(parse(Config, TD3)).plan.groups
    assert [(group.name, group.every) for group in groups] == [("critic", 1), ("actor", 2)]
    assert [group.every for group in Algorithm(Config()).plan.groups] == [1, 1]


def test_the_plan_says_how_to_replay() -> None:
    plan = Algorithm(parse(Config, {"n_step": 3, "gamma": 0.9, "tau": 0.5})).plan
    assert plan.replay is not None
    assert (plan.replay.n_step, plan.replay.gamma, plan.replay.alpha, plan.tau) == (
        3,
        0.9,
        None,
        0.5,
    )
    replay = Algorithm(parse(Config, {"prioritised": {"beta": 0.5}})).plan.replay
    assert replay is not None
    assert (replay.alpha, replay.beta) == (0.6, 0.5)


@pytest.mark.parametrize(
    "action", [gym.Discrete(3), gym.MultiDiscrete([2, 2]), gym.Box(-np.inf, 1.0, (2,), np.float32)]
)
def test_actions_that_are_not_of_a_bounded_box_are_refused(action: gym.Space[np.ndarray]) -> None:
    seen = {"x": gym.Box(-1, 1, (3,))}
    with pytest.raises(UserError, match=r"algorithm.name: ddpg needs actions of a bounded Box"):
        defaults(Config(), Spaces(seen, action))
    settings = defaults(parse(Config, TD3), Spaces(seen, gym.Box(-1, 1, (2,))))
    network = settings["network"]
    assert isinstance(network, dict)
    assert (network["kind"], network["critics"]) == ("deterministic", 2)
