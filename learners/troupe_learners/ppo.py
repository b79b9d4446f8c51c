"""Proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347).

With a clip or with an adaptive KL penalty, on advantages by GAE. A magnet and a penalty in the
direction of mirror descent make it magnetic mirror descent (Sokota et al., 2023, arXiv:2206.05825),
which approaches equilibria in self-play. `docs/ppo.md` says where others differ.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from gymnasium import spaces as gym
from pydantic import Field
from torch import Tensor

from troupe.config import config
from troupe.episodes import Columns, Episodes
from troupe.errors import UserError
from troupe.policies import Policy, Spaces
from troupe_learners import on_policy
from troupe_learners.advantages import gae, moments, normalise
from troupe_learners.algorithms import Batch, Group, Loss, Plan, Roles, Totals
from troupe_learners.corrections import trusted
from troupe_learners.kl import k1, log_ratio
from troupe_learners.losses import (
    actor_critic,
    adapted_beta,
    clipped_value_error,
    ppo_clip,
    ppo_penalty,
    value_error,
)
from troupe_learners.optim import OptimizerSettings
from troupe_learners.text_measures import measures

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]


@config
class Penalty:
    """A KL term in the loss, in place of the clip."""

    coefficient: Positive = 1.0
    """Its weight at first; of mirror descent, 1 / eta."""
    target: Positive | None = 0.01
    """The mean KL of a batch that the weight is moved for; none leaves the weight as it is."""
    most: Positive = 100.0
    """The weight never exceeds this."""
    reverse: bool = False
    """KL(pi||pi_old), as mirror descent has it, instead of PPO's KL(pi_old||pi)."""


@config
class Magnet:
    """A KL(pi||magnet) term in the loss, which pulls the policy towards a second one."""

    coefficient: Weight
    """Its weight, alpha, at the beginning of the run."""
    final: Weight | None = None
    """Its weight at the end, moved linearly; none is the same."""
    kind: Literal["uniform", "moving"] = "uniform"
    """uniform: every legal action alike, so the term is an entropy bonus; moving: the policy's past."""
    tau: Annotated[float, Field(gt=0, le=1)] = 0.001
    """How far a moving magnet follows the policy after every optimizer step."""


@config
class Config:
    """Options of PPO; the defaults are those of its common implementations for control."""

    batch: Count | None = None
    """Steps that are trained on together, or a few more; none is what all actors play in a turn."""
    epochs: Count = 4
    """How often a batch is gone through."""
    minibatches: Count = 4
    """In how many parts, one optimizer step each."""
    micro_batch: Count | None = None
    """Steps that pass through the network at once; bounds memory and changes no result."""
    gamma: Share = 0.99
    """Discount per step."""
    gae_lambda: Share = 0.95
    """Of advantages: 0 is the one-step error, 1 the whole return."""
    objective: Literal["clip", "penalty"] = "clip"
    """What holds the policy near the one that acted."""
    clip: Positive | tuple[Positive, Positive] = 0.2
    """How far the ratio may leave 1: below and above alike, or one number for each."""
    anneal_clip: bool = False
    """The clip falls linearly to 0 by the run's end."""
    penalty: Penalty = Field(default_factory=Penalty)
    """For the objective `penalty`."""
    old_log_prob: Literal["auto", "actor", "learner"] = "auto"
    """What the ratio is measured from: the policy as it acted, or the learner's as a batch begins;
    auto is the learner's where a batch has several optimizer steps."""
    trust: tuple[Share, Annotated[float, Field(ge=1)]] | None = (0.5, 2.0)
    """From the learner's: steps whose ratio of the two lies outside teach the policy nothing, others
    are weighted by it; none weighs all alike."""
    value_coefficient: Weight = 0.5
    """Weight of half the squared error of the values."""
    value_clip: Positive | None = None
    """How far a batch may move a value before it gains nothing; none is any way."""
    entropy: Weight = 0.0
    """Weight of the entropy bonus."""
    reference_kl: Weight = 0.0
    """Of text: the reward of every token is less by this times log(pi/reference), k1, where the
    reference is the model as it was before."""
    magnet: Magnet | None = None
    """For self-play: towards what the policy is pulled."""
    normalise: Literal["minibatch", "batch", "none"] = "minibatch"
    """Over which steps, of all ranks, advantages have mean 0 and deviation 1."""
    target_kl: Positive | None = None
    """A batch is left when the estimated KL of a minibatch exceeds this."""
    anneal: bool = False
    """The learning rate falls linearly to 0 by the run's end."""
    optimizer: OptimizerSettings = Field(
        default_factory=lambda: OptimizerSettings(name="adam", lr=2.5e-4, eps=1e-5)
    )
    max_grad_norm: Positive | None = 0.5
    """The gradient is scaled down to this L2 norm."""


class _Now(NamedTuple):
    """What the settings come to for the batch that is being trained on."""

    low: float
    high: float
    """Of the clip."""
    alpha: float
    """Weight of the magnet."""
    kl: Callable[[Tensor, Tensor], Tensor]
    """The policy's own divergence."""


class Algorithm:
    """A surrogate objective that bears several optimizer steps on one batch."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._measures = on_policy.Measures(settings.gamma)
        self._penalised = settings.objective == "penalty"
        self._beta = settings.penalty.coefficient
        several = settings.epochs * settings.minibatches > 1
        by_learner = {"auto": several, "learner": True, "actor": False}
        self._remeasured = by_learner[settings.old_log_prob]
        self._now: _Now | None = None
        self.plan = _plan(settings)

    def credit(self, block: Episodes) -> Columns:
        """Nothing: advantages wait for the critic that is trained on them."""
        return {}

    def prepare(self, batch: Batch, roles: Roles) -> Batch:
        """Advantages and targets by GAE, and what the policy is to stay near."""
        s = self._settings
        policy = on_policy.stochastic(roles.policy, "ppo")
        self._now = _now(s, roles.progress, policy.kl)
        reward = self._measures.rewards(batch, policy, roles)
        seen, bootstrap = on_policy.look(batch, policy, self._wanted(), s.micro_batch, roles.passes)
        anchors = self._anchors(batch, seen)
        if s.reference_kl:
            reward = reward - s.reference_kl * k1(anchors["old_log_prob"], seen["reference"])
        credit = gae(
            reward,
            seen["value"],
            bootstrap,
            batch.fragment["length"],
            batch.fragment["ending"],
            gamma=s.gamma,
            lambda_=s.gae_lambda,
        )
        columns = {"value": seen["value"], "target": credit.target}
        columns["advantage"] = credit.advantage
        if s.normalise == "batch":
            totals = roles.add_up(moments(credit.advantage))
            columns["advantage"] = normalise(credit.advantage, totals)
        columns |= anchors
        if self.plan.tau is not None:
            columns["magnet"] = self._distribution(batch, roles.target)
        return batch.with_steps(columns)

    def loss(
        self, group: str, outputs: Mapping[str, Tensor], minibatch: Batch, totals: Totals
    ) -> Loss:
        """The surrogate, the critic's error, and what keeps the policy random or near a magnet."""
        s, step, now = self._settings, minibatch.step, self._now
        assert now is not None
        log_prob, old = outputs["log_prob"], step["old_log_prob"]
        advantage = step["advantage"]
        if "weight" in step:
            advantage = advantage * step["weight"]
        looks: dict[str, Tensor] = {}
        if self._penalised:
            kl = looks["kl"] = self._divergence(outputs["distribution"], step["old"], now)
            policy = ppo_penalty(log_prob, old, advantage, kl, self._beta)
        else:
            policy = ppo_clip(log_prob, old, advantage, low=now.low, high=now.high)
        value = self._value_error(outputs["value"], step)
        moving = "magnet" in step
        term = actor_critic(
            policy,
            value,
            outputs["entropy"],
            value_coefficient=s.value_coefficient,
            entropy_coefficient=s.entropy + (0.0 if moving else now.alpha),
        )
        if moving:
            pull = looks["magnet_kl"] = now.kl(outputs["distribution"], step["magnet"])
            term = term + now.alpha * pull
        looks |= {"policy_loss": policy, "value_loss": value, "entropy": outputs["entropy"]}
        looks |= _travelled(log_prob, old, now)
        if minibatch.context:
            looks |= on_policy.beside(log_prob, old if self._remeasured else log_prob, step)
        return Loss(term.sum() / totals.steps, on_policy.means(looks, totals.steps))

    def after(self, batch: Batch, roles: Roles) -> Mapping[str, Tensor]:
        """Move the penalty's weight, and merge what was observed into the normaliser."""
        policy = on_policy.stochastic(roles.policy, "ppo")
        looks = dict(self._move_beta(batch, policy, roles))
        if batch.context:
            looks |= measures(batch, roles)
        return {**looks, **self._measures.after(batch, policy, roles)}

    def state(self) -> Mapping[str, float]:
        """The penalty's weight, and returns that go on."""
        return {"beta": self._beta, **self._measures.state()}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave."""
        self._beta = state["beta"]
        self._measures.restore(state)

    def _move_beta(
        self, batch: Batch, policy: on_policy.Stochastic, roles: Roles
    ) -> dict[str, Tensor]:
        penalty, now = self._settings.penalty, self._now
        if not self._penalised or penalty.target is None:
            return {}
        assert now is not None
        kl = (
            self._divergence(self._distribution(batch, policy), batch.step["old"], now)
            .double()
            .sum()
        )
        total, steps = roles.add_up(torch.stack([kl, torch.full_like(kl, batch.steps)])).tolist()
        self._beta = adapted_beta(
            self._beta, total / steps, target=penalty.target, most=penalty.most
        )
        return {"beta": torch.tensor(self._beta, device=kl.device)}

    def _wanted(self) -> set[str]:
        """What `prepare` asks of the policy, besides values."""
        want = {"log_prob"} if self._remeasured else set()
        want |= {"reference"} if self._settings.reference_kl else set()
        return want | {"distribution"} if self._penalised else want

    def _anchors(self, batch: Batch, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the policy is to stay near, and how far each step is to be believed."""
        acted = batch.step["log_prob"]
        columns = {"old_log_prob": seen["log_prob"] if self._remeasured else acted}
        if self._remeasured and self._settings.trust is not None:
            columns["weight"] = trusted(seen["log_prob"], acted, *self._settings.trust)
        if self._penalised:
            columns["old"] = seen["distribution"]
        if "reference" in seen:
            columns["reference"] = seen["reference"]
        return columns

    def _distribution(self, batch: Batch, policy: Policy) -> Tensor:
        want = {"distribution"}
        return on_policy.evaluated(batch, policy, want, self.plan.micro_batch)["distribution"]

    def _divergence(self, new: Tensor, old: Tensor, now: _Now) -> Tensor:
        """float [S]: the penalty, in the direction that the settings say."""
        return now.kl(new, old) if self._settings.penalty.reverse else now.kl(old, new)

    def _value_error(self, value: Tensor, step: Mapping[str, Tensor]) -> Tensor:
        clip = self._settings.value_clip
        if clip is None:
            return value_error(value, step["target"])
        return clipped_value_error(value, step["target"], step["value"], clip)


def defaults(settings: Config, spaces: Spaces) -> Mapping[str, object]:
    """A small network of a policy and its critic; actors draw from the policy. Of text, a language
    model with a value.

    Raises:
        UserError: the magnet is uniform over actions that are numbers; or a policy of text is to be
            compared by distributions, or one of something else with a reference.
    """
    magnet = settings.magnet
    if not spaces.observation:
        return _of_text(settings)
    if settings.reference_kl:
        raise UserError("algorithm.reference_kl: it is of text, and here is none; leave it out")
    if magnet is not None and magnet.kind == "uniform" and isinstance(spaces.action, gym.Box):
        raise UserError(
            f"algorithm.magnet.kind: 'uniform', but nothing is uniform over {spaces.action}; "
            "take 'moving', or algorithm.entropy"
        )
    return on_policy.DEFAULTS


def _of_text(settings: Config) -> Mapping[str, object]:
    if settings.batch is not None:
        raise UserError(
            "algorithm.batch: of text, text.groups says how much is trained on together"
        )
    for key, there in (
        ("objective: penalty", settings.objective == "penalty"),
        ("magnet", settings.magnet is not None),
    ):
        if there:
            raise UserError(
                f"algorithm.{key}: needs the whole distribution of every token, which is not kept of "
                "text; take objective: clip, and reference_kl"
            )
    language = {"value": "head", "reference": settings.reference_kl > 0.0}
    return {"network": {"kind": "language", "language": language}}


def _plan(settings: Config) -> Plan:
    magnet = settings.magnet
    moving = magnet is not None and magnet.kind == "moving"
    want = {"log_prob", "entropy", "value"}
    if moving or settings.objective == "penalty":
        want.add("distribution")
    everything = Group(
        name="all",
        want=frozenset(want),
        optimizer=settings.optimizer,
        max_grad_norm=settings.max_grad_norm,
    )
    return Plan(
        groups=(everything,),
        batch=settings.batch,
        epochs=settings.epochs,
        minibatches=settings.minibatches,
        normalise="advantage" if settings.normalise == "minibatch" else None,
        micro_batch=settings.micro_batch,
        anneal=settings.anneal,
        max_kl=settings.target_kl,
        tau=magnet.tau if magnet is not None and moving else None,
    )


def _now(settings: Config, progress: float, kl: Callable[[Tensor, Tensor], Tensor]) -> _Now:
    clip = settings.clip if isinstance(settings.clip, tuple) else (settings.clip, settings.clip)
    left = 1.0 - progress if settings.anneal_clip else 1.0
    return _Now(clip[0] * left, clip[1] * left, _alpha(settings.magnet, progress), kl)


def _alpha(magnet: Magnet | None, progress: float) -> float:
    """The magnet's weight at this point of the run."""
    if magnet is None:
        return 0.0
    final = magnet.coefficient if magnet.final is None else magnet.final
    return magnet.coefficient + (final - magnet.coefficient) * progress


@torch.no_grad()
def _travelled(log_prob: Tensor, old_log_prob: Tensor, now: _Now) -> dict[str, Tensor]:
    """float [S] each: how far every step's probability has moved."""
    log = log_ratio(log_prob, old_log_prob)
    ratio = log.exp()
    outside = (ratio < 1.0 - now.low) | (ratio > 1.0 + now.high)
    return {"approx_kl": ratio - 1.0 - log, "clip_fraction": outside.float()}
