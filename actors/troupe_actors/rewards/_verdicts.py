"""What comes of calling a reward: for each sample a number, or the reason why there is none."""

import math
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np

from troupe_actors.rewards import Reward, Sample

Verdict: TypeAlias = float | str
"""A finite number, or in words what went wrong."""

_NUMBER = (float, int, np.floating, np.integer, np.bool_)
_LONGEST_MESSAGE = 300


class CallError(Exception):
    """A call gave nothing that could be told apart by sample; the message is the reason."""


class Judge(Protocol):
    """Calls a reward, wherever that is."""

    def ask(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict for each sample.

        Raises:
            CallError: the call as a whole failed.
        """
        ...

    def close(self) -> None:
        """Let go of it; may be called twice."""
        ...


class Here:
    """Calls a reward in this process."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    def ask(self, samples: Sequence[Sample]) -> list[Verdict]:
        return call(self._reward, samples)

    def close(self) -> None:
        pass


def call(reward: Reward, samples: Sequence[Sample]) -> list[Verdict]:
    """Call a reward and look at each number that it gives.

    Raises:
        CallError: it raised, or did not give one value for each sample.
    """
    try:
        values = reward(samples)
        given = list(values)
    except Exception as error:
        raise CallError(told(error)) from error
    if isinstance(values, str | bytes | dict) or len(given) != len(samples):
        raise CallError(f"gave {len(given)} values ({_kind(values)}) for {len(samples)} samples")
    return [_verdict(value) for value in given]


def told(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    if len(text) > _LONGEST_MESSAGE:
        text = text[:_LONGEST_MESSAGE] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _verdict(value: object) -> Verdict:
    if isinstance(value, Exception):
        return told(value)
    if getattr(value, "shape", None) == ():  # a number in an array or tensor
        value = value.item()  # type: ignore[attr-defined]
    if not isinstance(value, _NUMBER):
        return f"gave {_shown(value)}, not a number"
    number = float(value)
    return number if math.isfinite(number) else f"gave {number}"


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text} ({_kind(value)})" if len(text) <= 40 else _kind(value)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
