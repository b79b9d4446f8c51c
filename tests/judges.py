"""Rewards that a user might write, good and bad; what they do is what the completion says."""

import os
import signal
from collections.abc import Sequence

from troupe_actors.rewards import Sample


def obey(samples: Sequence[Sample]) -> list[object]:
    """A number for a number; else what the word says."""
    return [_obey(sample.completion) for sample in samples]


def _obey(word: str) -> object:
    match word:
        case "raise":
            raise RuntimeError("told to")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "given":
            return ValueError("given back")
        case "word" | "none":
            return {"word": "one", "none": None}[word]
    return float(word)


def spin(samples: Sequence[Sample]) -> list[float]:
    """Hangs within C, where no signal handler and no thread gets a turn."""
    return [float(len(str(7 ** (10**9)))) for _ in samples]


def rank(samples: Sequence[Sample], *, scale: float) -> list[float]:
    """By length within the group."""
    lengths = [len(sample.completion) for sample in samples]
    if "raise" in [sample.completion for sample in samples]:
        raise RuntimeError("told to")
    return [scale * sorted(lengths).index(length) for length in lengths]


def too_few(samples: Sequence[Sample]) -> list[float]:
    """One value, whatever it is asked."""
    print("too few")
    return [0.5]


def where(samples: Sequence[Sample]) -> list[int]:
    """The process that it is called in."""
    return [os.getpid() for _ in samples]


NO_FUNCTION = 3
