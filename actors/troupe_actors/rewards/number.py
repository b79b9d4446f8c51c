"""`number`: 1 where the completion's last number is the answer; what is no number is wrong.

Numbers are read by math-verify: `1,234`, `3/4`, `0.75`, `50%`, `$\\frac{3}{4}$`, `\\boxed{72}`.
"""

from troupe_actors.rewards import Reward, Sample, each
from troupe_actors.rewards._answers import accepted, part
from troupe_actors.rewards.symbolic import Options

__all__ = ["APART", "NEEDS", "Options", "create"]

APART = True
NEEDS = "math_verify"


def create(options: Options) -> Reward:
    """The reward under these options.

    It raises ValueError where the answer in the data is no number.
    """
    from troupe_actors.rewards._mathematics import meant, numbers, said, same

    def judge(sample: Sample) -> float:
        right = [n for one in accepted(sample, options.answer_after) for n in numbers(meant(one))]
        if not right:
            raise ValueError(f"the row's answer {sample.answer!r} is no number")
        text = part(sample.completion, options.after)
        return float(text is not None and same(right, numbers(said(text)), options.digits))

    return each(judge)
