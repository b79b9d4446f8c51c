"""What tests of algorithms for text do with a small model: sample, take gradients, move."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from texts import WORDS, batch, block, llama
from torch import Tensor, nn

from troupe.episodes import TOKEN, Ending
from troupe.language.settings import LanguageSettings
from troupe.policies import ACTION
from troupe.policies.language import LanguagePolicy
from troupe.policies.packing import Text
from troupe_learners.algorithms import Algorithm, Batch, Roles, Totals


def learner(**options: object) -> LanguagePolicy:
    return LanguagePolicy(llama(), LanguageSettings(reference=True, **options))  # type: ignore[arg-type]


def roles(policy: LanguagePolicy) -> Roles:
    return Roles(policy, policy, 0.0, lambda tensor: tensor, torch.Generator())


@torch.no_grad()
def sampled(policy: LanguagePolicy, of: Batch, noise: float = 0.0) -> Batch:
    """The batch, as if `policy` had sampled it, or one that differs by noise."""
    log = policy.evaluate(of.evaluated(), {"log_prob"})["log_prob"]
    random = torch.Generator().manual_seed(7)
    return of.with_steps({"log_prob": log + noise * torch.randn(len(log), generator=random)})


def gradient(
    own: Algorithm, policy: LanguagePolicy, parts: Sequence[Batch], of: Batch
) -> tuple[float, dict[str, float], Tensor]:
    """The loss of a batch in parts, its metrics and its gradient."""
    totals = Totals(of.steps, len(of.fragment["length"]))
    policy.zero_grad()
    loss, metrics = 0.0, dict[str, float]()
    for part in parts:
        outputs = policy.evaluate(part.evaluated(), own.plan.groups[0].want)
        share = own.loss("all", outputs, part, totals)
        share.total.backward()
        loss += share.total.item()
        for name, value in share.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value.item()
    grads = [parameter.grad.reshape(-1) for parameter in policy.group("all") if parameter.grad is not None]  # fmt: skip
    return loss, metrics, torch.cat(grads)


def fresh(model: nn.Module) -> nn.Module:
    """The same model with its own attention."""
    made = llama()
    made.load_state_dict(model.state_dict())
    return made


def moved(policy: LanguagePolicy, by: float = 0.05) -> LanguagePolicy:
    """A policy some way from where the batch was prepared."""
    random = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in policy.group("all"):
            parameter.add_(by * torch.randn(parameter.shape, generator=random))
    return policy


def draw(policy: LanguagePolicy, seed: int, version: int) -> Batch:
    """Four groups of eight completions of three tokens; a token is worth more the smaller it is."""
    random = torch.Generator().manual_seed(seed)
    prompts = torch.randint(WORDS, (4, 2), generator=random).repeat_interleave(8, 0)
    rows, logs = prompts, []
    with torch.no_grad():
        for _ in range(3):
            log = plain_next(policy, rows)
            token = torch.multinomial(log.exp(), 1, generator=random)
            logs.append(log.gather(1, token))
            rows = torch.cat([rows, token], 1)
    tokens = rows[:, 2:].numpy().astype(np.int32)
    reward = np.split((tokens < 10).mean(1), 4)
    of = block(prompts=(2,) * 4, lengths=((3,) * 8,) * 4, rewards=reward, version=version)
    of = replace(
        of,
        action={ACTION: tokens.reshape(-1)},
        log_prob=torch.cat(logs, 1).reshape(-1).numpy(),
        context={TOKEN: prompts[::8].reshape(-1).numpy().astype(np.int32)},
        ending=np.full(32, Ending.TRUNCATED, np.uint8),
    )
    return batch(of)


def plain_next(policy: LanguagePolicy, rows: Tensor) -> Tensor:
    """float [N, words]: log-probabilities of the next token, whatever the attention."""
    count, width = rows.shape
    ends = torch.arange(1, count + 1) * width
    text = Text(
        rows.reshape(-1),
        torch.stack([ends - width, ends], 1),
        torch.zeros(count, dtype=torch.int64),
        torch.ones(count, dtype=torch.int64),
    )
    head = policy._policy.head
    return (policy._policy.hidden(text) @ head.weight.T * head.scale).log_softmax(1)
