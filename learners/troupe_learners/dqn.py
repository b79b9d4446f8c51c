"""Deep Q-network (Mnih et al., 2015), double (van Hasselt et al., 2016, arXiv:1509.06461) by default.

Duelling streams (Wang et al., 2016, arXiv:1511.06581), windows of n steps and priorities are options,
as in Rainbow (Hessel et al., 2018, arXiv:1710.02298). `docs/dqn.md` says where others differ.
"""

from collections.abc import Mapping
from typing import Annotated

from gymnasium import spaces as gym
from pydantic import Field
from torch import Tensor

from troupe.config import config
from troupe.episodes import Columns, Episodes
from troupe.errors import UserError
from troupe.policies import Spaces
from troupe_learners.algorithms import Batch, Group, Loss, Plan, Replay, Roles, Totals
from troupe_learners.losses import td_loss
from troupe_learners.optim import OptimizerSettings
from troupe_learners.replay import Prioritised, following
from troupe_learners.targets import bootstrapped, double_q

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


@config
class Config:
    """Options of DQN."""

    capacity: Count = 100_000
    """Steps that the replay keeps, the newest."""
    learning_starts: Annotated[int, Field(ge=0)] = 1000
    """Steps played before the first update."""
    batch: Count = 64
    """Steps drawn for one update."""
    updates_per_step: Positive = 0.25
    """Updates for every step that is played."""
    gamma: Share = 0.99
    """Discount per step."""
    n_step: Count = 1
    """Rewards that a target sums before it trusts the network."""
    prioritised: Prioritised | None = None
    """Draw steps with large errors more often; none draws all alike."""
    double: bool = True
    """The network chooses the action whose value by the target network is the target."""
    duelling: bool = False
    """The network adds a state's value and its actions' advantages."""
    huber: Positive | None = 1.0
    """The error from which the loss is linear; none squares all."""
    tau: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How far the target network follows when it does; 1 copies the network."""
    target_every: Count = 250
    """Updates between two moves of the target network."""
    optimizer: OptimizerSettings = Field(
        default_factory=lambda: OptimizerSettings(name="adam", lr=5e-4)
    )
    max_grad_norm: Positive | None = 10.0
    """The gradient is scaled down to this L2 norm."""


class Algorithm:
    """Q(s, a) of every action, learned by bootstrapping."""

    def __init__(self, settings: Config) -> None:
        self._double = settings.double
        self._huber = settings.huber
        prioritised = settings.prioritised or Prioritised()
        everything = Group(
            name="all",
            want=frozenset({"value"}),
            optimizer=settings.optimizer,
            max_grad_norm=settings.max_grad_norm,
        )
        self.plan = Plan(
            groups=(everything,),
            tau=settings.tau,
            target_every=settings.target_every,
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
        """Add `target`: y = r + discount Q'(s', argmax Q(s', .)), over legal actions."""
        after = following(batch)
        values = roles.target.evaluate(after, {"values"})["values"]
        selector = roles.policy.evaluate(after, {"values"})["values"] if self._double else values
        best = double_q(selector, values)
        target = bootstrapped(batch.step["reward"], batch.step["discount"], best)
        return batch.with_steps({"target": target})

    def loss(
        self, group: str, outputs: Mapping[str, Tensor], minibatch: Batch, totals: Totals
    ) -> Loss:
        """Huber's loss, or the squared error, of the values of the actions taken."""
        value, target = outputs["value"], minibatch.step["target"]
        weight = minibatch.step.get("weight")
        terms = td_loss(value, target, weight, self._huber)
        error = (value.detach() - target).abs()
        metrics = {
            "value": value.detach().sum() / totals.steps,
            "td_error": error.sum() / totals.steps,
        }
        priority = None if weight is None else error
        return Loss(terms.sum() / totals.steps, metrics, priority)


def defaults(settings: Config, spaces: Spaces) -> Mapping[str, object]:
    """A network of the values of numbered actions, and play that is random at first.

    Raises:
        UserError: actions are not Discrete.
    """
    if not isinstance(spaces.action, gym.Discrete):
        raise UserError(
            f"algorithm.name: dqn values actions that are Discrete, not {spaces.action}; "
            "ppo learns others, ddpg those of a bounded Box"
        )
    return {
        "network": {
            "kind": "discrete_value",
            "hidden": 128,
            "layers": 2,
            "activation": "relu",
            "recurrent": 0,
            "duelling": settings.duelling,
        },
        "actors": {
            "rollout": 16,
            "exploration": 0.05,
            "exploration_start": 1.0,
            "exploration_decay": 150,
        },
    }
