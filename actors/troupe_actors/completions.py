"""Completions: as samples for the rewards, as a block for the learner, and back as text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from troupe.episodes import Array, Ending, Episodes
from troupe.policies import ACTION
from troupe.samples import Entry
from troupe_actors.recorder import Author
from troupe_actors.rewards import Sample
from troupe_actors.scoring import Scored

POLICY = "agent"
"""What a language policy is called."""
TOKEN, PROMPT, REWARD = "token", "prompt", "reward/"
"""Columns of a block's `context` and `about`."""

Tokens: TypeAlias = NDArray[np.int32]
Decode: TypeAlias = Callable[[Tokens], str]
"""Text of [n] tokens, special ones included."""


class Completion(Protocol):
    """What an engine made of one request."""

    @property
    def tokens(self) -> Tokens:
        """int32 [n], n > 0: what was sampled; a stop token is the last of them."""
        ...

    @property
    def log_prob(self) -> NDArray[np.float32]:
        """float32 [n]: under the distribution each was drawn from."""
        ...

    @property
    def version(self) -> NDArray[np.uint32]:
        """uint32 [n]: of the weights that each was drawn by."""
        ...

    @property
    def finish(self) -> Literal["stop", "length"]:
        """Whether it ended by itself or at the limit."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A prompt and what was said to it."""

    group: int
    """int64; no other prompt of a run has it at the same time."""
    prompt: Tokens
    """int32 [T]: what the policy read."""
    text: str
    """The same as text."""
    completions: Sequence[Completion]
    answer: object = None
    row: Mapping[str, object] | None = None


class Text(NamedTuple):
    """A fragment of a block as a person reads it."""

    prompt: str
    completion: str


def samples(answered: Sequence[Answered], decode: Decode) -> list[Sample]:
    """All completions for the rewards, in order: those of the first prompt, then the next."""
    return [
        Sample(
            prompt=one.text,
            completion=decode(_spoken(completion.tokens, completion.finish == "stop")),
            answer=one.answer,
            tokens=len(completion.tokens),
            finish=completion.finish,
            group=one.group,
            row=one.row,
        )
        for one in answered
        for completion in one.completions
    ]


def sound(
    answered: Sequence[Answered], scored: Scored, *, least: int = 2
) -> tuple[list[Answered], Scored]:
    """What is left without the samples that a reward failed on.

    Prompts with fewer than `least` completions left are left out: estimators that compare within a
    group need two, all others one.
    """
    kept: list[Answered] = []
    rows: list[NDArray[np.int64]] = []
    start = 0
    for one in answered:
        end = start + len(one.completions)
        good = np.flatnonzero(~scored.failed[start:end])
        if len(good) >= least:
            kept.append(replace(one, completions=[one.completions[int(i)] for i in good]))
            rows.append(start + good)
        start = end
    return kept, scored.take(np.concatenate(rows) if rows else np.empty(0, np.int64))


def pack(
    answered: Sequence[Answered],
    scored: Scored,
    author: Author,
    *,
    policy: str = POLICY,
    turn: int = 0,
    resume: bytes = b"",
) -> Episodes:
    """A block of whole groups: a fragment for each completion, a step for each sampled token.

    The reward is on a completion's last token. Observations are empty: what was read is in
    `context`, each prompt once. See `Episodes`.

    Raises:
        ValueError: a completion is empty, or a sample has no reward.
    """
    all_ = [completion for one in answered for completion in one.completions]
    length = np.array([len(completion.tokens) for completion in all_], np.int32)
    if (length == 0).any() or scored.failed.any() or len(scored.total) != len(all_):
        raise ValueError("every completion needs a token and a reward")
    reward = np.zeros(int(length.sum()), np.float32)
    reward[np.cumsum(length) - 1] = scored.total
    counts = [len(one.completions) for one in answered]
    endings = [
        Ending.TERMINATED if completion.finish == "stop" else Ending.TRUNCATED
        for completion in all_
    ]
    return Episodes(
        policy=policy,
        actor=author.actor,
        incarnation=author.incarnation,
        attempt=author.attempt,
        observation={},
        action={ACTION: _joined([c.tokens for c in all_], np.int32)},
        reward=reward,
        log_prob=_joined([c.log_prob for c in all_], np.float32),
        version=_joined([c.version for c in all_], np.uint32),
        length=length,
        seat=np.zeros(len(all_), np.uint8),
        group=np.repeat(np.array([one.group for one in answered], np.int64), counts),
        ending=np.array(endings, np.uint8),
        context={TOKEN: _joined([one.prompt for one in answered], np.int32)},
        about={
            PROMPT: _prompts([len(one.prompt) for one in answered], counts),
            **{REWARD + name: values for name, values in scored.components.items()},
        },
        turn=turn,
        resume=resume,
    )


def texts(block: Episodes, decode: Decode) -> list[Text]:
    """The fragments of a block as text, without their stop tokens."""
    ends = np.cumsum(block.length)
    token, action = block.context[TOKEN], block.action[ACTION]
    return [
        Text(
            decode(token[start:end]),
            decode(_spoken(action[last - count : last], ending == Ending.TERMINATED)),
        )
        for (start, end), count, last, ending in zip(
            block.about[PROMPT], block.length, ends, block.ending, strict=True
        )
    ]


def entries(answered: Sequence[Answered], judged: Sequence[Sample], scored: Scored) -> list[Entry]:
    """All completions for the run's table of samples, failed ones included."""
    versions = [int(c.version.max(initial=0)) for one in answered for c in one.completions]
    return [
        Entry(
            version=versions[i],
            group=sample.group,
            prompt=sample.prompt,
            completion=sample.completion,
            answer=sample.answer,
            reward=float(scored.total[i]),
            rewards={name: float(values[i]) for name, values in scored.components.items()},
            tokens=sample.tokens,
            finish=sample.finish,
            reason=scored.reasons[i],
        )
        for i, sample in enumerate(judged)
    ]


def measures(judged: Sequence[Sample], scored: Scored) -> dict[str, float]:
    """Means for the metrics, over all completions: failed ones count in all but their rewards.

    `reward` and `reward/<label>`, `completion_length` (tokens), `truncated` and `reward_failed`
    (shares). What there is nothing of is left out.
    """
    rewards = {"reward": scored.total}
    rewards |= {REWARD + name: values for name, values in scored.components.items()}
    told = {n: float(np.nanmean(v)) for n, v in rewards.items() if not np.isnan(v).all()}
    if judged:
        told["completion_length"] = float(np.mean([sample.tokens for sample in judged]))
        told["truncated"] = float(np.mean([sample.finish == "length" for sample in judged]))
        told["reward_failed"] = float(scored.failed.mean())
    return told


def _spoken(tokens: Tokens, stopped: bool) -> Tokens:
    """Without the stop token."""
    return tokens[:-1] if stopped else tokens


def _prompts(lengths: Sequence[int], counts: Sequence[int]) -> NDArray[np.int32]:
    """[N, 2]: where each fragment's prompt starts and ends, prompts being laid end to end."""
    ends = np.cumsum(lengths, dtype=np.int32)
    ranges = np.stack([ends - np.array(lengths, np.int32), ends], axis=1)
    return np.repeat(ranges, counts, axis=0)


def _joined(parts: Sequence[Array], dtype: type[np.generic]) -> Array:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)
