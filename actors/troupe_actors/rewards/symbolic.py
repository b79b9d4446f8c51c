"""`symbolic`: 1 where the completion's last formula means the same as the answer.

Formulas are read and compared by math-verify: LaTeX between dollars or in `\\boxed{}`, else plain
numbers. Sets, intervals, equations and matrices are compared as such.
"""

from typing import Annotated

from pydantic import Field

from troupe.config import config
from troupe_actors.rewards import Reward, Sample, each
from troupe_actors.rewards._answers import accepted, part

APART = True
NEEDS = "math_verify"


@config
class Options:
    """Where the answers stand, and how exact they are."""

    after: str = ""
    """The completion's answer is the rest of the line after the last of this, such as `####`."""
    answer_after: str = ""
    """The same for the answer in the data."""
    digits: Annotated[int, Field(ge=0, le=15)] = 6
    """Decimal places to which numbers agree."""


def create(options: Options) -> Reward:
    """The reward under these options."""
    from troupe_actors.rewards._mathematics import meant, said, same

    def judge(sample: Sample) -> float:
        right = [value for one in accepted(sample, options.answer_after) for value in meant(one)]
        text = part(sample.completion, options.after)
        return float(text is not None and same(right, said(text), options.digits))

    return each(judge)
