"""REINFORCE with a learned baseline (Williams, 1992; Sutton and Barto, 2nd ed., section 13.4).

The return of every step runs to the end of its episode where the fragment has it, and else to the
fragment's end, from where the critic's value stands for the rest.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from troupe.config import config
from troupe.episodes import Columns, Episodes
from troupe.policies import Spaces
from troupe_learners import on_policy
from troupe_learners.advantages import gae, moments, normalise
from troupe_learners.algorithms import Batch, Group, Loss, Plan, Roles, Totals
from troupe_learners.optim import OptimizerSettings

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]


@config
class Config:
    """Options of REINFORCE."""

    batch: Count | None = None
    """Steps that are trained on together, or a few more; none is what all actors play in a turn."""
    micro_batch: Count | None = None
    """Steps that pass through the network at once; bounds memory and changes no result."""
    gamma: Share = 0.99
    """Discount per step."""
    baseline: bool = True
    """The critic's value is taken off the return; without, it only stands for what a fragment leaves
    out."""
    normalise: bool = True
    """What multiplies the gradient has mean 0 and deviation 1 over the batch of all ranks."""
    value_coefficient: Weight = 0.5
    """Weight of half the squared error of the values."""
    entropy: Weight = 0.0
    """Weight of the entropy bonus."""
    anneal: bool = False
    """The learning rate falls linearly to 0 by the run's end."""
    optimizer: OptimizerSettings = Field(
        default_factory=lambda: OptimizerSettings(name="adam", lr=2.5e-3, eps=1e-5)
    )
    max_grad_norm: Positive | None = 0.5
    """The gradient is scaled down to this L2 norm."""


class Algorithm:
    """One optimizer step on each batch, along returns times the gradient of log-probabilities."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._measures = on_policy.Measures(settings.gamma)
        everything = Group(
            name="all",
            want=frozenset({"log_prob", "entropy", "value"}),
            optimizer=settings.optimizer,
            max_grad_norm=settings.max_grad_norm,
        )
        self.plan = Plan(
            groups=(everything,),
            batch=settings.batch,
            micro_batch=settings.micro_batch,
            anneal=settings.anneal,
        )

    def credit(self, block: Episodes) -> Columns:
        """Nothing: unfinished episodes wait for the critic."""
        return {}

    def prepare(self, batch: Batch, roles: Roles) -> Batch:
        """Returns, less the baseline."""
        policy = on_policy.stochastic(roles.policy, "reinforce")
        reward = self._measures.rewards(batch, policy, roles)
        seen, bootstrap = on_policy.look(batch, policy, set(), self.plan.micro_batch)
        advantage, returns = gae(
            reward,
            seen["value"],
            bootstrap,
            batch.fragment["length"],
            batch.fragment["ending"],
            gamma=self._settings.gamma,
            lambda_=1.0,
        )
        weight = advantage if self._settings.baseline else returns
        if self._settings.normalise:
            weight = normalise(weight, roles.add_up(moments(weight)))
        return batch.with_steps({"value": seen["value"], "target": returns, "advantage": weight})

    def loss(
        self, group: str, outputs: Mapping[str, Tensor], minibatch: Batch, totals: Totals
    ) -> Loss:
        """The policy gradient, the critic's error and the entropy bonus."""
        return on_policy.gradient_loss(
            outputs,
            minibatch,
            totals,
            value_coefficient=self._settings.value_coefficient,
            entropy_coefficient=self._settings.entropy,
        )

    def after(self, batch: Batch, roles: Roles) -> Mapping[str, Tensor]:
        """Merge what was observed into the normaliser."""
        policy = on_policy.stochastic(roles.policy, "reinforce")
        return self._measures.after(batch, policy, roles)

    def state(self) -> Mapping[str, float]:
        """Returns that go on."""
        return self._measures.state()

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave."""
        self._measures.restore(state)


def defaults(settings: Config, spaces: Spaces) -> Mapping[str, object]:
    """A small network of a policy and its critic; actors draw from the policy."""
    return on_policy.DEFAULTS
