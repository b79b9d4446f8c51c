"""Supervised fine-tuning: the likelihood of completions that somebody else wrote.

It warms a model up, so that reinforcement learning has something to reward. What is learned from are
text blocks like any other, whose tokens are those to be imitated; their rewards are not looked at.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from troupe.config import config
from troupe.episodes import Columns, Episodes
from troupe.errors import UserError
from troupe.policies import Spaces
from troupe_learners import on_policy
from troupe_learners.aggregation import sequence_weights, token_weights, weighted_sum
from troupe_learners.algorithms import Batch, Group, Loss, Plan, Roles, Totals
from troupe_learners.optim import OptimizerSettings

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


@config
class Config:
    """Options of supervised fine-tuning."""

    epochs: Count = 1
    """How often a batch is gone through."""
    minibatches: Count = 1
    """In how many parts, one optimizer step each."""
    micro_batch: Count | None = None
    """Tokens, prompts included, that pass through the model at once; bounds memory and changes no
    result."""
    mean: Literal["token", "sequence"] = "token"
    """Over all tokens, or over completions of means over their tokens."""
    anneal: bool = False
    """The learning rate falls linearly to 0 by the run's end."""
    optimizer: OptimizerSettings = Field(
        default_factory=lambda: OptimizerSettings(name="adamw", lr=1e-5, weight_decay=0.0)
    )
    max_grad_norm: Positive | None = 1.0
    """The gradient is scaled down to this L2 norm."""


class Algorithm:
    """Minus the log-probability of every token of a completion, its stop token included."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        everything = Group(
            name="all",
            want=frozenset({"log_prob", "entropy"}),
            optimizer=settings.optimizer,
            max_grad_norm=settings.max_grad_norm,
        )
        self.plan = Plan(
            groups=(everything,),
            epochs=settings.epochs,
            minibatches=settings.minibatches,
            segments=True,
            micro_batch=settings.micro_batch,
            anneal=settings.anneal,
        )

    def credit(self, block: Episodes) -> Columns:
        """Nothing: all tokens are alike."""
        return {}

    def prepare(self, batch: Batch, roles: Roles) -> Batch:
        """Nothing to add."""
        return batch

    def loss(
        self, group: str, outputs: Mapping[str, Tensor], minibatch: Batch, totals: Totals
    ) -> Loss:
        """The cross entropy."""
        log_prob, length = outputs["log_prob"], minibatch.fragment["length"]
        mask = torch.ones_like(log_prob, dtype=torch.bool)
        if self._settings.mean == "token":
            weight = token_weights(mask, totals.steps)
        else:
            weight = sequence_weights(mask, length, totals.fragments)
        looks = {"entropy": outputs["entropy"], "log_prob": log_prob}
        return Loss(weighted_sum(-log_prob, weight), on_policy.means(looks, totals.steps))


def defaults(settings: Config, spaces: Spaces) -> Mapping[str, object]:
    """A language model.

    Raises:
        UserError: there is something else to see than text.
    """
    if spaces.observation:
        raise UserError("algorithm.name: sft learns from text alone")
    return {"network": {"kind": "language", "language": {}}}
