"""`pattern`: 1 where a regular expression fits the completion, such as a format to keep to.

A pattern may take for ever on a text that it nearly fits, so it is tried in a process of its own.
"""

import re
from typing import Annotated

from pydantic import Field

from troupe.config import config
from troupe_actors.rewards import Reward, each

APART = True


@config
class Options:
    """What is looked for, as Python's `re` writes it."""

    pattern: Annotated[str, Field(min_length=1)]
    whole: bool = True
    """The completion as a whole fits, white space at its ends aside; else some part of it."""
    ignore_case: bool = False
    dot_all: bool = True
    """`.` also stands for the end of a line."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"{self.pattern!r} is no regular expression: {error}") from None


def create(options: Options) -> Reward:
    """The reward under these options."""
    flags = (re.IGNORECASE if options.ignore_case else 0) | (re.DOTALL if options.dot_all else 0)
    compiled = re.compile(options.pattern, flags)
    fits = compiled.fullmatch if options.whole else compiled.search
    return each(lambda sample: float(fits(sample.completion.strip()) is not None))
