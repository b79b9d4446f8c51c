"""`length`: what a completion costs by its length, at most 0 and at least -1."""

from typing import Annotated, Literal

from pydantic import Field

from troupe.config import config
from troupe_actors.rewards import Reward, Sample, each

Tokens = Annotated[int, Field(gt=0)]


@config
class Options:
    """The rule, and the lengths it goes by; the stop token counts."""

    max_tokens: Tokens
    """The most that a completion may have, as its sampling has it."""
    rule: Literal["overlong", "cut", "price"] = "overlong"
    """overlong: DAPO's soft punishment; cut: -1 for what the limit cut off; price: a part of -1
    for every token."""
    buffer: Tokens | None = None
    """Of overlong, the last tokens before the limit, over which the punishment grows; none is a
    fifth of the limit."""

    def __post_init__(self) -> None:
        if self.buffer is not None and self.buffer > self.max_tokens:
            raise ValueError(f"buffer {self.buffer} is more than max_tokens {self.max_tokens}")


def create(options: Options) -> Reward:
    """The reward under these options."""
    return each(lambda sample: _judge(sample, options))


def overlong(tokens: int, max_tokens: int, buffer: int) -> float:
    """0 up to `max_tokens - buffer`, then down in a line to -1 at `max_tokens`, and no further.

    DAPO's soft overlong punishment (Yu et al., 2503.14476, equation 13).
    """
    return -min(max((tokens - (max_tokens - buffer)) / buffer, 0.0), 1.0)


def _judge(sample: Sample, options: Options) -> float:
    match options.rule:
        case "overlong":
            buffer = options.buffer or max(options.max_tokens // 5, 1)
            return overlong(sample.tokens, options.max_tokens, buffer)
        case "cut":
            return -float(sample.finish == "length")
        case "price":
            return -min(sample.tokens / options.max_tokens, 1.0)
