"""A policy that says what its observations tell it to say, and batches of them."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from troupe.episodes import Ending
from troupe.policies import ACTION, Steps
from troupe_learners.algorithms import Batch, Roles
from troupe_learners.kl import categorical_kl

REWARD = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
VALUE = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
LENGTH = [3, 1, 2]
ENDING = [Ending.TRUNCATED, Ending.TERMINATED, Ending.CUT]
FINAL = [2.0, 3.0, 1.5]


class Told(nn.Module):
    """V(s) is the first number observed; the second, less that of action 1, is action 0's logit."""

    returns = None

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(1.0))
        self.shift = nn.Parameter(torch.tensor(0.0))
        self.seen: list[Tensor] = []

    def evaluate(self, steps: Steps, want: Collection[str]) -> dict[str, Tensor]:
        value, logit = steps.observation["observation"].unbind(1)
        logits = torch.stack([logit + self.shift, torch.zeros_like(logit)], 1)
        log = logits.log_softmax(1)
        given = {"value": value * self.value, "distribution": log}
        given["entropy"] = -(log.exp() * log).sum(1)
        if "log_prob" in want:
            assert steps.action is not None
            given["log_prob"] = log.gather(1, steps.action.unsqueeze(1)).squeeze(1)
        return {name: given[name] for name in want}

    def group(self, name: str) -> list[nn.Parameter]:
        return list(self.parameters())

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        return categorical_kl(p, q)

    def observe(
        self, observation: Mapping[str, Tensor], add_up: Callable[[Tensor], Tensor]
    ) -> None:
        self.seen.append(observation["observation"])

    def observe_returns(self, returns: Tensor, add_up: Callable[[Tensor], Tensor]) -> None:
        raise AssertionError("rewards are not normalised")

    def reward_scale(self) -> Tensor:
        return torch.ones(())


def roles(policy: Told, target: Told | None = None, progress: float = 0.0) -> Roles:
    random = torch.Generator()
    return Roles(policy, target or policy, progress, lambda tensor: tensor, random)


def told(
    *,
    logit: Sequence[float] | None = None,
    log_prob: Sequence[float] | None = None,
    length: Sequence[int] = LENGTH,
    ending: Sequence[Ending] = ENDING,
    final: Sequence[float] = FINAL,
) -> Batch:
    """The golden case: truncated at t=2, terminated at t=3, cut at the end; always action 0.

    Args:
        logit: of action 0 in every state; none is 0.
        log_prob: as acted; none is what `Told` says.
    """
    logits = torch.tensor([0.0] * 6 if logit is None else logit)
    acted = nn.functional.logsigmoid(logits) if log_prob is None else torch.tensor(log_prob)
    return Batch(
        observation={"observation": torch.stack([torch.tensor(VALUE), logits], 1)},
        action={ACTION: torch.zeros(6, dtype=torch.int64)},
        step={"reward": torch.tensor(REWARD), "log_prob": acted},
        fragment={
            "length": torch.tensor(length),
            "ending": torch.tensor(ending, dtype=torch.uint8),
            "seat": torch.zeros(len(length), dtype=torch.uint8),
            "stream": torch.arange(len(length)),
        },
        final={"observation": torch.tensor([[value, 0.0] for value in final])},
    )
