"""Small language models, and batches of completions that nobody sampled."""

from collections.abc import Sequence

import numpy as np
import torch
import transformers
from torch import nn

from troupe.episodes import PROMPT, REWARD, TOKEN, Ending, Episodes
from troupe.language.settings import LanguageSettings
from troupe.policies import ACTION
from troupe.policies.language import LanguagePolicy
from troupe_learners import batches
from troupe_learners.algorithms import Batch
from troupe_learners.batches import Piece

CPU = torch.device("cpu")
WORDS = 29


def llama(seed: int = 0, *, tied: bool = True, words: int = WORDS) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=words,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    return sharpened(transformers.LlamaForCausalLM, config, seed)


def sharpened(kind: type, config: transformers.PretrainedConfig, seed: int = 0) -> nn.Module:
    """A fresh model that is far from uniform."""
    torch.manual_seed(seed)
    model: nn.Module = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0) if parameter.ndim > 1 else parameter.add_(0.1)
    return model


def policy(seed: int = 0, **options: object) -> LanguagePolicy:
    return LanguagePolicy(llama(seed), LanguageSettings(**options))  # type: ignore[arg-type]


def block(
    prompts: Sequence[int] = (3, 5),
    lengths: Sequence[Sequence[int]] = ((3, 1, 2), (4, 6)),
    rewards: Sequence[Sequence[float]] | None = None,
    seed: int = 0,
    version: int = 0,
    slot: int = 0,
    truncated: Sequence[int] = (),
) -> Episodes:
    """Groups of completions of random tokens.

    Args:
        prompts: the length of each group's prompt.
        lengths: of each group's completions.
        rewards: of each completion; none is random.
        seed: of the tokens.
        version: that sampled all of them.
        slot: of the actor.
        truncated: which completions came to no end.
    """
    random = np.random.default_rng(seed)
    length = np.array([n for group in lengths for n in group], np.int32)
    counts = [len(group) for group in lengths]
    ends = np.cumsum([0, *prompts])[1:]
    spans = np.stack([ends - prompts, ends], 1).astype(np.int32)
    reward = np.zeros(length.sum(), np.float32)
    given = random.normal(size=len(length)) if rewards is None else np.concatenate([*rewards])
    reward[np.cumsum(length) - 1] = given
    ending = np.full(len(length), Ending.TERMINATED, np.uint8)
    ending[list(truncated)] = Ending.TRUNCATED
    return Episodes(
        policy="agent",
        actor=f"actor-{slot}",
        incarnation=0,
        attempt=1,
        observation={},
        action={ACTION: random.integers(0, WORDS, length.sum()).astype(np.int32)},
        reward=reward,
        log_prob=np.full(length.sum(), -np.log(WORDS), np.float32),
        version=np.full(length.sum(), version, np.uint32),
        length=length,
        seat=np.zeros(len(length), np.uint8),
        group=np.repeat(np.arange(len(counts)), counts),
        ending=ending,
        context={TOKEN: random.integers(0, WORDS, sum(prompts)).astype(np.int32)},
        about={
            PROMPT: np.repeat(spans, counts, axis=0),
            f"{REWARD}exact": np.asarray(given, np.float32),
        },
    )


def batch(*blocks: Episodes) -> Batch:
    return batches.join([Piece(block, {}) for block in blocks or (block_of(),)], CPU)


def block_of() -> Episodes:
    return block()


def plain(model: nn.Module, of: Batch, temperature: float = 1.0) -> torch.Tensor:
    """float32 [S, words]: the model's own log-probabilities, one padded row for each completion."""
    rows, spans = [], of.about[PROMPT].tolist()
    parts = of.action[ACTION].long().split(of.fragment["length"].tolist())
    for (start, end), part in zip(spans, parts, strict=True):
        rows.append(torch.cat([of.context[TOKEN][start:end].long(), part]))
    longest = max(len(row) for row in rows)
    padded = torch.stack([nn.functional.pad(row, (0, longest - len(row))) for row in rows])
    mask = torch.stack([(torch.arange(longest) < len(row)).long() for row in rows])
    logits = model(input_ids=padded, attention_mask=mask).logits
    own = [
        row[end - start - 1 : end - start - 1 + len(part)]
        for row, (start, end), part in zip(logits, spans, parts, strict=True)
    ]
    return (torch.cat(own) / temperature).log_softmax(1)


def picked(log: torch.Tensor, of: Batch) -> torch.Tensor:
    return log.gather(1, of.action[ACTION].long()[:, None]).squeeze(1)
