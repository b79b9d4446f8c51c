"""Deep deterministic policy gradient (Lillicrap et al., 2016, arXiv:1509.02971).

With two critics, a delayed actor and a smoothed target it is TD3 (Fujimoto et al., 2018,
arXiv:1802.09477). `docs/ddpg.md` says where others differ.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Protocol, runtime_checkable

import torch
from gymnasium import spaces as gym
from pydantic import Field
from torch import Tensor

from troupe.config import config
from troupe.episodes import Columns, Episodes
from troupe.errors import UserError
from troupe.policies import Spaces
from troupe_learners.algorithms import Batch, Group, Loss, Plan, Replay, Roles, Totals
from troupe_learners.losses import deterministic_policy, td_loss
from troupe_learners.optim import OptimizerSettings
from troupe_learners.replay import Prioritised, following
from troupe_learners.targets import bootstrapped, smoothed, twin_minimum

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


def _adam() -> OptimizerSettings:
    return OptimizerSettings(name="adam", lr=1e-3)


@config
class Smoothing:
    """Noise on the target policy's actions, in half-widths of their range."""

    noise: Positive = 0.2
    """Its standard deviation."""
    clip: Positive = 0.5
    """It is clipped to +- this."""


@config
class Config:
    """Options of DDPG. TD3 is `{twin: true, policy_delay: 2, smoothing: {}}`."""

    capacity: Count = 1_000_000
    """Steps that the replay keeps, the newest."""
    learning_starts: Annotated[int, Field(ge=0)] = 1000
    """Steps played uniformly at random before the first update."""
    batch: Count = 256
    """Steps drawn for one update."""
    updates_per_step: Positive = 1.0
    """Updates for every step that is played."""
    gamma: Share = 0.99
    """Discount per step."""
    n_step: Count = 1
    """Rewards that a target sums before it trusts a critic."""
    prioritised: Prioritised | None = None
    """Draw steps with large errors more often; none draws all alike."""
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    """How far the target network follows with every update of the actor."""
    twin: bool = False
    """Two critics; targets are of whichever says less."""
    policy_delay: Count = 1
    """Updates of the critic for one of the actor and the target network."""
    smoothing: Smoothing | None = None
    """Targets value actions near the target policy's; none values its action."""
    actor: OptimizerSettings = Field(default_factory=_adam)
    critic: OptimizerSettings = Field(default_factory=_adam)
    max_grad_norm: Positive | None = None
    """The gradients of actor and critic are each scaled down to this L2 norm."""


class Algorithm:
    """A critic that learns Q(s, a) by bootstrapping, and an actor that climbs it."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        prioritised = settings.prioritised or Prioritised()
        critic = Group(
            name="critic",
            want=frozenset({"value"}),
            optimizer=settings.critic,
            max_grad_norm=settings.max_grad_norm,
        )
        actor = Group(
            name="actor",
            want=frozenset({"policy_value"}),
            optimizer=settings.actor,
            max_grad_norm=settings.max_grad_norm,
            every=settings.policy_delay,
        )
        self.plan = Plan(
            groups=(critic, actor),
            tau=settings.tau,
            replay=Replay(
                capacity=settings.capacity,
                batch=settings.batch,
                updates_per_step=settings.updates_per_step,
                learning_starts=settings.learning_starts,
                n_step=settings.n_step,
                gamma=settings.gamma,
                alpha=prioritised.alpha if settings.prioritised else None,
                beta=prioritised.beta,
            ),
        )

    def credit(self, block: Episodes) -> Columns:
        """Nothing: targets are computed as steps are drawn."""
        return {}

    def prepare(self, batch: Batch, roles: Roles) -> Batch:
        """Add `target`: y = r + discount Q'(s', mu'(s')), of the lower of two critics."""
        after = following(batch)
        action = roles.target.evaluate(after, {"policy_action"})["policy_action"]
        if self._settings.smoothing is not None:
            action = _smooth(action, self._settings.smoothing, roles)
        value = roles.target.evaluate(replace(after, action=action), {"value"})["value"]
        lowest = twin_minimum(value.T) if value.ndim == 2 else value
        target = bootstrapped(batch.step["reward"], batch.step["discount"], lowest)
        return batch.with_steps({"target": target})

    def loss(
        self, group: str, outputs: Mapping[str, Tensor], minibatch: Batch, totals: Totals
    ) -> Loss:
        """The critics' squared errors, or the actor's value by the first critic."""
        if group == "actor":
            value = outputs["policy_value"]
            loss = deterministic_policy(value).sum() / totals.steps
            return Loss(loss, {"policy_value": -loss.detach()})
        value = outputs["value"].reshape(minibatch.steps, -1)
        target = minibatch.step["target"].unsqueeze(1)
        weight = minibatch.step.get("weight")
        terms = td_loss(value, target, None if weight is None else weight.unsqueeze(1))
        error = (value.detach() - target).abs().mean(1)
        metrics = {
            "value": value.detach().mean(1).sum() / totals.steps,
            "td_error": error.sum() / totals.steps,
        }
        priority = None if weight is None else error
        return Loss(terms.sum() / totals.steps, metrics, priority)


def defaults(settings: Config, spaces: Spaces) -> Mapping[str, object]:
    """A deterministic policy with one critic or two, and Gaussian noise on what it does.

    Raises:
        UserError: actions are not of a bounded Box.
    """
    action = spaces.action
    if not isinstance(action, gym.Box) or not action.is_bounded("both"):
        raise UserError(
            f"algorithm.name: ddpg needs actions of a bounded Box, not {action}; "
            "dqn or ppo learn Discrete actions, ppo also unbounded ones"
        )
    return {
        "network": {
            "kind": "deterministic",
            "hidden": 256,
            "layers": 2,
            "activation": "relu",
            "recurrent": 0,
            "critics": 2 if settings.twin else 1,
        },
        "actors": {
            "rollout": 16,
            "exploration": 0.1,
            "exploration_start": 0.1,
            "exploration_decay": 0,
        },
    }


@runtime_checkable
class _Bounded(Protocol):
    """A policy whose actions have bounds, float of an action's shape."""

    low: Tensor
    high: Tensor


def _smooth(action: Tensor, settings: Smoothing, roles: Roles) -> Tensor:
    policy = roles.target
    assert isinstance(policy, _Bounded), "smoothing needs a policy that knows its bounds"
    noise = torch.empty_like(action).normal_(0.0, settings.noise, generator=roles.random)
    return smoothed(action, noise, limit=settings.clip, low=policy.low, high=policy.high)
