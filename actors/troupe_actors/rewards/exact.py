"""`exact`: 1 where the completion is the answer, or one of several, once both are normalised."""

import string
import unicodedata

from troupe.config import config
from troupe_actors.rewards import Reward, Sample, each
from troupe_actors.rewards._answers import accepted, part

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@config
class Options:
    """What counts as the same."""

    after: str = ""
    """The completion's answer is the rest of the line after the last of this, such as `####`."""
    answer_after: str = ""
    """The same for the answer in the data."""
    ignore_case: bool = True
    ignore_punctuation: bool = False
    ignore_space: bool = False
    """Without this, any white space is as good as a single blank, and none counts at the ends."""


def create(options: Options) -> Reward:
    """The reward under these options."""
    return each(lambda sample: _judge(sample, options))


def normalise(text: str, options: Options) -> str:
    """A text in the form that is compared (Unicode NFKC first)."""
    text = unicodedata.normalize("NFKC", text)
    if options.ignore_case:
        text = text.casefold()
    if options.ignore_punctuation:
        text = text.translate(_NO_PUNCTUATION)
    return ("" if options.ignore_space else " ").join(text.split())


def _judge(sample: Sample, options: Options) -> float:
    right = {normalise(str(one), options) for one in accepted(sample, options.answer_after)}
    said = part(sample.completion, options.after)
    return float(said is not None and normalise(said, options) in right)
