"""Group relative policy optimisation (Shao et al., 2024, arXiv:2402.03300), and its relatives.

A completion's advantage is how its reward compares with those of others to the same prompt; there is
no critic. Relatives differ in how they compare, in their surrogate and in what they take the mean
over: each is a set of options with a name. `docs/grpo.md` says which, and where others differ.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from troupe.config import config
from troupe.episodes import Columns, Ending, Episodes
from troupe.errors import TroupeError, UserError
from troupe.policies import Spaces
from troupe_learners import group_advantages, kl, on_policy
from troupe_learners.advantages import moments, normalise
from troupe_learners.aggregation import (
    constant_weights,
    sequence_weights,
    token_weights,
    weighted_sum,
)
from troupe_learners.algorithms import Batch, Group, Loss, Plan, Roles, Totals
from troupe_learners.corrections import truncated, trusted
from troupe_learners.kl import log_ratio
from troupe_learners.optim import OptimizerSettings
from troupe_learners.returns import monte_carlo
from troupe_learners.sequences import spread, sums
from troupe_learners.text_losses import cispo, clipped_ratio, mirror_descent, sequence_log_ratio
from troupe_learners.text_measures import measures

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
Advantage = Literal["normalised", "centred", "left_out", "batch"]
Objective = Literal["clip", "sequence_clip", "weight_clip", "mirror"]
Mean = Literal["token", "sequence", "constant", "sum"]


class Relative(NamedTuple):
    """What the options come to that a job leaves out."""

    advantage: Advantage
    objective: Objective
    mean: Mean
    clip: tuple[float, float] = (0.2, 0.2)
    kl: Literal["loss", "reward"] = "loss"


RELATIVES: Mapping[str, Relative] = {
    "grpo": Relative("normalised", "clip", "sequence"),
    "dr_grpo": Relative("centred", "clip", "constant"),
    "dapo": Relative("normalised", "clip", "token", (0.2, 0.28)),
    "rloo": Relative("left_out", "clip", "sum", kl="reward"),
    "reinforce++": Relative("batch", "clip", "token", kl="reward"),
    "gspo": Relative("normalised", "sequence_clip", "sequence", (3e-4, 4e-4)),
    "cispo": Relative("normalised", "weight_clip", "token", (1.0, 4.0)),
    "kimi": Relative("centred", "mirror", "sum"),
}


@config
class KlSettings:
    """What holds the policy near the model that it was before, by log-probabilities of samples."""

    coefficient: Weight = 0.0
    """Its weight; above 0 a reference model is kept."""
    place: Literal["loss", "reward"] | None = None
    """A term of the loss, or k1 taken off the reward of every token; none is as the relative has it."""
    estimator: Literal["k2", "k3"] = "k3"
    """In the loss: k2 has the gradient of KL(pi||ref), k3, as GRPO, of KL(ref||pi); k1 has none."""


@config
class Config:
    """Options of GRPO; those that are none are as the relative has them."""

    relative: Literal["grpo", "dr_grpo", "dapo", "rloo", "reinforce++", "gspo", "cispo", "kimi"] = (
        "grpo"
    )
    """Which options belong together, by the name of their paper."""
    epochs: Count = 1
    """How often a batch is gone through."""
    minibatches: Count = 1
    """In how many parts, one optimizer step each, of whole groups."""
    micro_batch: Count | None = None
    """Tokens, prompts counted once a group, that pass through the model at once; bounds memory and
    changes no result."""
    advantage: Advantage | None = None
    """normalised: (r - mean) / std of the group; centred: without the division; left_out: r less the
    mean of the others; batch: rewards to come, normalised over the tokens of all ranks."""
    objective: Objective | None = None
    """clip: PPO's, of each token; sequence_clip: of the mean ratio of a completion; weight_clip: the
    ratio is a constant weight with a cap; mirror: a squared error, without a ratio."""
    mean: Mean | None = None
    """token: over all tokens; sequence: over completions, of means over their tokens; constant: over
    completions, of sums divided by `longest`; sum: of sums."""
    clip: Positive | tuple[Positive, Positive] | None = None
    """How far the ratio may leave 1: below and above alike, or one number for each."""
    longest: Count | None = None
    """Of the mean `constant`: most tokens a completion may have, as the sampling says."""
    tau: Positive = 0.1
    """Of the objective `mirror`: weight of staying near where a batch began."""
    old_log_prob: Literal["auto", "actor", "learner"] = "auto"
    """What the ratio is measured from: the policy as it sampled, or the learner's as a batch begins;
    auto is the learner's where a batch has several optimizer steps."""
    correction: Literal["mask", "truncate", "none"] = "mask"
    """From the learner's: each token is weighted by the ratio of the two, with 0 outside `trust`, or
    with at most its upper end, or not at all, which is biased by whatever is stale."""
    trust: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=1)]] = (0.5, 2.0)
    kl: KlSettings = Field(default_factory=KlSettings)
    entropy: Weight = 0.0
    """Weight of the entropy bonus."""
    truncated: Literal["keep", "mask"] = "keep"
    """Completions that were cut at the most tokens: learned from like others, or not; they keep their
    place in the denominators."""
    target_kl: Positive | None = None
    """A batch is left when the estimated KL of a minibatch exceeds this."""
    anneal: bool = False
    """The learning rate falls linearly to 0 by the run's end."""
    optimizer: OptimizerSettings = Field(
        default_factory=lambda: OptimizerSettings(name="adamw", lr=1e-6, weight_decay=0.0)
    )
    max_grad_norm: Positive | None = 1.0
    """The gradient is scaled down to this L2 norm."""


class Algorithm:
    """A surrogate of sampled tokens, with advantages from rewards alone.

    Raises:
        UserError: an option is missing that another one needs.
    """

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._relative = _chosen(settings)
        several = settings.epochs * settings.minibatches > 1
        by_learner = {"auto": several, "learner": True, "actor": False}[settings.old_log_prob]
        self._mirror = self._relative.objective == "mirror"
        self._remeasured = by_learner or self._mirror
        self._bound = settings.kl.coefficient > 0.0
        self.plan = _plan(settings, afresh=self._mirror)

    def credit(self, block: Episodes) -> Columns:
        """Nothing: rewards may be less what a reference model says.

        Raises:
            TroupeError: a reward is not a number, or one completion is all of its group.
        """
        if not np.isfinite(block.reward).all():
            raise TroupeError(f"learner: {block.actor} brought a reward that is not a number")
        if self._relative.advantage != "batch" and block.fragments:
            _, counts = np.unique(block.group, return_counts=True)
            if counts.min() < 2:
                raise TroupeError(
                    f"learner: {block.actor} brought a group of one completion, and "
                    f"{self._settings.relative} compares within groups; sample two or more to a prompt"
                )
        return {}

    def prepare(self, batch: Batch, roles: Roles) -> Batch:
        """Advantages, what the policy is to stay near, and how far each token is to be believed."""
        s = self._settings
        want = {"log_prob"} if self._remeasured else set[str]()
        want |= {"reference"} if self._bound else set()
        seen = {}
        if want:
            seen = on_policy.evaluated(batch, roles.policy, want, s.micro_batch, roles.passes)
        acted = batch.step["log_prob"]
        old = seen.get("log_prob", acted)
        columns = {"old_log_prob": old}
        reward = batch.step["reward"]
        if self._bound:
            columns["reference"] = seen["reference"]
            if self._relative.kl == "reward":
                reward = reward - s.kl.coefficient * kl.k1(old, seen["reference"])
        if self._remeasured and not self._mirror and s.correction != "none":
            columns["weight"] = self._believed(old, acted)
        columns["advantage"] = self._advantage(reward, batch, roles)
        if s.truncated == "mask":
            whole = batch.fragment["ending"] != Ending.TRUNCATED
            columns["whole"] = spread(whole, batch.fragment["length"], batch.steps)
        return batch.with_steps(columns)

    def loss(
        self, group: str, outputs: Mapping[str, Tensor], minibatch: Batch, totals: Totals
    ) -> Loss:
        """The surrogate, and what keeps the policy random or near its reference."""
        s, step = self._settings, minibatch.step
        log_prob, entropy = outputs["log_prob"], outputs["entropy"]
        looks = self._looked(log_prob, minibatch)
        looks["entropy"] = entropy
        if self._mirror:
            total = self._squared_error(log_prob, minibatch, totals)
        else:
            term = self._term(log_prob, minibatch)
            total = weighted_sum(term, self._weights(minibatch, totals))
        others = -s.entropy * entropy if s.entropy else None
        if self._bound and self._relative.kl == "loss":
            pull = s.kl.coefficient * self._pull(log_prob, step)
            others = pull if others is None else others + pull
        if others is not None:
            total = total + weighted_sum(others, self._weights(minibatch, totals))
        return Loss(total, on_policy.means(looks, totals.steps))

    def after(self, batch: Batch, roles: Roles) -> Mapping[str, Tensor]:
        """What the batch was like: rewards, by component too, lengths, ends, groups all alike."""
        return measures(batch, roles)

    def state(self) -> Mapping[str, float]:
        """Nothing moves."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Nothing to go on from."""

    def _advantage(self, reward: Tensor, batch: Batch, roles: Roles) -> Tensor:
        """float [S]."""
        length, group = batch.fragment["length"], batch.fragment["group"]
        if self._relative.advantage == "batch":
            to_come = monte_carlo(reward, length)
            return normalise(to_come, roles.add_up(moments(to_come)))
        compare = {
            "normalised": group_advantages.normalised,
            "centred": group_advantages.centred,
            "left_out": group_advantages.left_out,
        }[self._relative.advantage]
        return spread(compare(sums(reward, length), group), length, batch.steps)

    def _believed(self, old: Tensor, acted: Tensor) -> Tensor:
        low, high = self._settings.trust
        if self._settings.correction == "mask":
            return trusted(old, acted, low, high)
        return truncated(old, acted, high)

    def _term(self, log_prob: Tensor, minibatch: Batch) -> Tensor:
        """float [S]: the surrogate of each token."""
        step, (low, high) = minibatch.step, self._relative.clip
        old, advantage = step["old_log_prob"], step["advantage"]
        if self._relative.objective == "weight_clip":
            term = cispo(log_prob, old, advantage, high=high)
        else:
            term = clipped_ratio(
                self._log_ratio(log_prob, minibatch), advantage, low=low, high=high
            )
        return term * step["weight"] if "weight" in step else term

    def _log_ratio(self, log_prob: Tensor, minibatch: Batch) -> Tensor:
        """float [S]: of what is clipped."""
        old = minibatch.step["old_log_prob"]
        if self._relative.objective == "sequence_clip":
            return sequence_log_ratio(log_prob, old, minibatch.fragment["length"])
        return log_ratio(log_prob, old)

    def _squared_error(self, log_prob: Tensor, minibatch: Batch, totals: Totals) -> Tensor:
        """A scalar; each completion counts once, however long."""
        step, length = minibatch.step, minibatch.fragment["length"]
        ends = length.cumsum(0) - 1
        term = mirror_descent(
            log_prob,
            step["old_log_prob"],
            step["advantage"][ends],
            length,
            tau=self._settings.tau,
        )
        mask = step["whole"][ends] if "whole" in step else torch.ones_like(ends, dtype=torch.bool)
        return weighted_sum(term, constant_weights(mask, 1, totals.fragments))

    def _pull(self, log_prob: Tensor, step: Mapping[str, Tensor]) -> Tensor:
        """float [S]: the divergence from the reference, as if tokens were sampled from pi."""
        estimate = {"k2": kl.k2, "k3": kl.k3}[self._settings.kl.estimator]
        ratio = log_ratio(log_prob.detach(), step["log_prob"]).exp()
        return ratio * estimate(log_prob, step["reference"])

    def _weights(self, minibatch: Batch, totals: Totals) -> Tensor:
        """float [S]: what each token counts in the loss."""
        length = minibatch.fragment["length"]
        mask = minibatch.step.get("whole")
        if mask is None:
            mask = torch.ones(minibatch.steps, dtype=torch.bool, device=length.device)
        match self._relative.mean:
            case "token":
                return token_weights(mask, totals.steps)
            case "sequence":
                return sequence_weights(mask, length, totals.fragments)
            case "sum":
                return constant_weights(mask, 1, totals.fragments)
            case "constant":
                longest = self._settings.longest
                assert longest is not None
                return constant_weights(mask, longest, totals.fragments)

    @torch.no_grad()
    def _looked(self, log_prob: Tensor, minibatch: Batch) -> dict[str, Tensor]:
        """float [S] each: how far the policy moved, and what it is compared with."""
        step, (low, high) = minibatch.step, self._relative.clip
        log = log_ratio(log_prob, step["old_log_prob"])
        begun = step["old_log_prob"] if self._remeasured else log_prob
        looks = on_policy.beside(log_prob, begun, step)
        looks["approx_kl"] = log.exp() - 1.0 - log
        if self._mirror:
            return looks
        ratio = self._log_ratio(log_prob, minibatch).exp()
        outside = ratio > 1.0 + high
        if self._relative.objective != "weight_clip":
            outside |= ratio < 1.0 - low
        looks["clip_fraction"] = outside.float()
        if "weight" in step:
            looks["rejected"] = (step["weight"] == 0.0).float()
        return looks


def defaults(settings: Config, spaces: Spaces) -> Mapping[str, object]:
    """A language model, with a reference to compare with if one is needed.

    Raises:
        UserError: there is something else to see than text.
    """
    if spaces.observation:
        raise UserError("algorithm.name: grpo learns from text; take ppo for what is observed")
    Algorithm(settings)  # says what does not go together
    language = {"reference": True} if settings.kl.coefficient > 0.0 else {}
    return {"network": {"kind": "language", "language": language}}


def _chosen(settings: Config) -> Relative:
    """The relative, with what the job says of it."""
    usual, clip = RELATIVES[settings.relative], settings.clip
    if clip is None:
        clip = usual.clip
    elif not isinstance(clip, tuple):
        clip = (clip, clip)
    chosen = Relative(
        settings.advantage or usual.advantage,
        settings.objective or usual.objective,
        settings.mean or usual.mean,
        clip,
        settings.kl.place or usual.kl,
    )
    if chosen.mean == "constant" and settings.longest is None:
        raise UserError(
            f"algorithm.longest: missing; {settings.relative} divides by the most tokens that a "
            "completion may have: give what the sampling has"
        )
    return chosen


def _plan(settings: Config, *, afresh: bool) -> Plan:
    everything = Group(
        name="all",
        want=frozenset({"log_prob", "entropy"}),
        optimizer=settings.optimizer,
        max_grad_norm=settings.max_grad_norm,
    )
    return Plan(
        groups=(everything,),
        epochs=settings.epochs,
        minibatches=settings.minibatches,
        segments=True,
        together=True,
        micro_batch=settings.micro_batch,
        afresh=afresh,
        anneal=settings.anneal,
        max_kl=settings.target_kl,
    )
