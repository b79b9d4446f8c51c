"""`characters`: the share of characters that stand where the answer, or the best of several, has them.

What is too long or too short loses by it: the share is of the longer of the two.
"""

from troupe.config import config
from troupe_actors.rewards import Reward, Sample, each
from troupe_actors.rewards._answers import accepted


@config
class Options:
    """There are none."""


def create(options: Options) -> Reward:
    """The reward under these options."""
    return each(_judge)


def share(text: str, answer: str) -> float:
    """1 where they are the same, 0 where no character is in its place."""
    longest = max(len(text), len(answer))
    same = sum(a == b for a, b in zip(text, answer, strict=False))
    return same / longest if longest else 1.0


def _judge(sample: Sample) -> float:
    return max(share(sample.completion, str(answer)) for answer in accepted(sample, ""))
