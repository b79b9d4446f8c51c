"""Advantage actor-critic (Mnih et al., 2016, arXiv:1602.01783), synchronous or with V-trace.

V-trace (Espeholt et al., 2018, arXiv:1802.01561) corrects for actors whose weights are older than
the learner's. On the policy's own steps it gives the n-step returns that A2C has without it.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from troupe.config import config
from troupe.episodes import Columns, Episodes
from troupe.policies import Spaces
from troupe_learners import on_policy
from troupe_learners.advantages import Credit, gae, moments, normalise, vtrace
from troupe_learners.algorithms import Batch, Group, Loss, Plan, Roles, Totals
from troupe_learners.kl import log_ratio
from troupe_learners.optim import OptimizerSettings

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]


@config
class Config:
    """Options of actor-critic; the defaults are those of its common implementations."""

    batch: Count | None = None
    """Steps that are trained on together, or a few more; none is what all actors play in a turn."""
    micro_batch: Count | None = None
    """Steps that pass through the network at once; bounds memory and changes no result."""
    gamma: Share = 0.99
    """Discount per step."""
    gae_lambda: Share = 1.0
    """1: returns over all steps to a fragment's end; 0: over a single one; between: a mean of all."""
    correction: Literal["vtrace", "none"] = "vtrace"
    """What is done about steps of older weights; none is a little faster, and right in lockstep
    without lag."""
    rho_bar: Positive = 1.0
    """Of V-trace: how much a step may count; decides whose values are learned."""
    c_bar: Positive = 1.0
    """Of V-trace: how much later steps may count for earlier ones."""
    normalise: bool = False
    """Advantages have mean 0 and deviation 1 over the batch of all ranks."""
    value_coefficient: Weight = 0.5
    """Weight of half the squared error of the values."""
    entropy: Weight = 0.0
    """Weight of the entropy bonus."""
    anneal: bool = False
    """The learning rate falls linearly to 0 by the run's end."""
    optimizer: OptimizerSettings = Field(
        default_factory=lambda: OptimizerSettings(name="rmsprop", lr=7e-4, alpha=0.99, eps=1e-5)
    )
    max_grad_norm: Positive | None = 0.5
    """The gradient is scaled down to this L2 norm."""


class Algorithm:
    """One optimizer step on each batch, along the policy gradient."""

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
        """Nothing: advantages wait for the critic that is trained on them."""
        return {}

    def prepare(self, batch: Batch, roles: Roles) -> Batch:
        """Advantages and targets of the learner's current critic."""
        policy = on_policy.stochastic(roles.policy, "actor_critic")
        reward = self._measures.rewards(batch, policy, roles)
        want = {"log_prob"} if self._settings.correction == "vtrace" else set()
        seen, bootstrap = on_policy.look(batch, policy, want, self.plan.micro_batch)
        credit = self._credited(batch, reward, seen, bootstrap)
        advantage = credit.advantage
        if self._settings.normalise:
            advantage = normalise(advantage, roles.add_up(moments(advantage)))
        return batch.with_steps(
            {"value": seen["value"], "target": credit.target, "advantage": advantage}
        )

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
        policy = on_policy.stochastic(roles.policy, "actor_critic")
        return self._measures.after(batch, policy, roles)

    def state(self) -> Mapping[str, float]:
        """Returns that go on."""
        return self._measures.state()

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave."""
        self._measures.restore(state)

    def _credited(
        self, batch: Batch, reward: Tensor, seen: Mapping[str, Tensor], bootstrap: Tensor
    ) -> Credit:
        s = self._settings
        length, ending = batch.fragment["length"], batch.fragment["ending"]
        if s.correction == "none":
            return gae(
                reward,
                seen["value"],
                bootstrap,
                length,
                ending,
                gamma=s.gamma,
                lambda_=s.gae_lambda,
            )
        return vtrace(
            reward,
            seen["value"],
            bootstrap,
            log_ratio(seen["log_prob"], batch.step["log_prob"]),
            length,
            ending,
            gamma=s.gamma,
            lambda_=s.gae_lambda,
            rho_bar=s.rho_bar,
            c_bar=s.c_bar,
        )


def defaults(settings: Config, spaces: Spaces) -> Mapping[str, object]:
    """A small network of a policy and its critic; actors draw from the policy."""
    return on_policy.DEFAULTS
