"""Deep Monte Carlo (Zha et al., "DouZero", ICML 2021, arXiv:2106.06135).

Q(s, a) is regressed on the return that followed: no bootstrapping, no importance weights. Batches
are made up differently from the paper's; `docs/deep_monte_carlo.md` says how.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from gymnasium import spaces as gym
from pydantic import Field
from torch import Tensor

from troupe.config import config
from troupe.episodes import Columns, Ending, Episodes
from troupe.errors import TroupeError, UserError
from troupe.policies import Spaces
from troupe_learners.algorithms import Batch, Group, Loss, Plan, Roles, Totals
from troupe_learners.losses import mean_square
from troupe_learners.optim import OptimizerSettings
from troupe_learners.returns import monte_carlo

Objective = Literal["wp", "adp", "log-adp"]


@config
class Config:
    """Options of deep Monte Carlo; the defaults are DouZero's."""

    objective: Objective = "wp"
    """wp: who wins; adp: points won; log-adp: points won, on a logarithmic scale."""
    batch: Annotated[int, Field(gt=0)] = 3200
    """Steps per update."""
    micro_batch: Annotated[int, Field(gt=0)] | None = None
    """Steps that pass through the network at once; none is the whole batch."""
    optimizer: OptimizerSettings = Field(
        default_factory=lambda: OptimizerSettings(name="rmsprop", lr=1e-4, alpha=0.99, eps=1e-5)
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = 40.0
    """The gradient is scaled down to this L2 norm."""


class Algorithm:
    """Regression of Q(s, a) on the final return of the seat that acted."""

    def __init__(self, settings: Config) -> None:
        everything = Group(
            name="all",
            want=frozenset({"value"}),
            optimizer=settings.optimizer,
            max_grad_norm=settings.max_grad_norm,
        )
        self.plan = Plan(
            groups=(everything,),
            batch=settings.batch,
            whole=False,
            micro_batch=settings.micro_batch,
        )
        self._objective: Objective = settings.objective

    def credit(self, block: Episodes) -> Columns:
        """The return of every step.

        Raises:
            TroupeError: a fragment ends before its episode does, so its return is not known.
        """
        if bool(np.any(block.ending != Ending.TERMINATED)):
            raise TroupeError(
                f"deep_monte_carlo: a block of {block.actor} for {block.policy} holds episodes that "
                "are cut or truncated: their returns are not known; send whole episodes only"
            )
        reward, length = torch.tensor(block.reward), torch.tensor(block.length)
        return {"return": monte_carlo(reward, length).numpy()}

    def prepare(self, batch: Batch, roles: Roles) -> Batch:
        """Turn returns into what Q is to predict."""
        return batch.with_steps({"target": target(batch.step["return"], self._objective)})

    def loss(
        self, group: str, outputs: Mapping[str, Tensor], minibatch: Batch, totals: Totals
    ) -> Loss:
        """Mean squared error of the values."""
        value = outputs["value"]
        loss = mean_square(value, minibatch.step["target"], totals.steps)
        return Loss(loss, {"value": value.detach().sum() / totals.steps})


def defaults(settings: Config, spaces: Spaces) -> Mapping[str, object]:
    """A network of action values, and play that is random at first."""
    if not isinstance(spaces.action, gym.MultiBinary):
        raise UserError(
            f"algorithm.name: deep_monte_carlo values moves of MultiBinary, not {spaces.action}; "
            "dqn or ppo learn such actions"
        )
    return {
        "network": {"kind": "action_value", "hidden": 512, "layers": 5, "recurrent": 128},
        "actors": {"exploration": 0.01, "exploration_start": 1.0, "exploration_decay": 120},
    }


def target(returns: Tensor, objective: Objective) -> Tensor:
    """What Q(s, a) predicts, given points won G: float [S] to float [S].

    wp: sign(G), +-1. adp: G, +-2^bombs. log-adp: sign(G) (log2|G| + 1), +-(bombs + 1).
    """
    match objective:
        case "wp":
            return returns.sign()
        case "adp":
            return returns
        case "log-adp":
            return torch.where(returns == 0, 0.0, returns.sign() * (returns.abs().log2() + 1))
