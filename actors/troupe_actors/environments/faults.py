"""What goes wrong in environments, which are foreign code, and how patient we are with it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from troupe.errors import FatalError

_LONGEST_MESSAGE = 300
_NUMBER = (float, int, np.floating, np.integer)
_FLAG = (bool, np.bool_)


class EnvironmentFaultError(FatalError):
    """An environment always fails, or broke its own spaces: names environment, slot and step."""


class RepeatError(FatalError):
    """The same seed and actions led to something else than before: names environment and slot."""

    @classmethod
    def at(cls, name: str, slot: int, what: str) -> "RepeatError":
        """The error that says `what` was different."""
        return cls(
            f"environment {name!r}, slot {slot}: does not repeat itself: {what}; in lockstep its "
            "seed and the actions have to determine it: mend that, or use schedule: async"
        )


class MismatchError(Exception):
    """A value is not what the environment's spaces or Gymnasium's interface say.

    Whoever knows where it came from makes it an `EnvironmentFaultError`.
    """


class WrongActionError(Exception):
    """The action of one row is out of bounds."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row = row


@dataclass(frozen=True, slots=True)
class Patience:
    """How often an environment may fail, and how long to wait before it is made anew (seconds)."""

    failures: int = 5
    """Failures in a row that end it: no episode and no `sound_steps` steps between them."""
    first_wait: float = 0.1
    """Doubled with every failure in a row."""
    longest_wait: float = 10.0
    sound_steps: int = 1000


class Failures:
    """Counts the failures of one environment, and waits longer after each in a row."""

    def __init__(self, patience: Patience, wait: Callable[[float], object] = time.sleep) -> None:
        self.total = 0
        self._patience = patience
        self._wait = wait
        self._in_a_row = 0
        self._steps = 0

    def sound(self) -> None:
        """An episode came to its end."""
        self._in_a_row = 0

    def failed(self, error: Exception, where: str, steps: int) -> None:
        """The environment raised `error`, after `steps` vector steps in all; return to try again.

        Raises:
            EnvironmentFaultError: it failed too often in a row.
        """
        if steps - self._steps >= self._patience.sound_steps:
            self._in_a_row = 0
        self._steps = steps
        self._in_a_row += 1
        if self._in_a_row >= self._patience.failures:
            often = f", {self._in_a_row} times in a row" if self._in_a_row > 1 else ""
            raise EnvironmentFaultError(f"{where}: raised {told(error)}{often}") from error
        self.total += 1
        wait = self._patience.first_wait * 2 ** (self._in_a_row - 1)
        self._wait(min(wait, self._patience.longest_wait))


def told(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    if len(text) > _LONGEST_MESSAGE:
        text = text[:_LONGEST_MESSAGE] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place(name: str, slot: int, step: int, episode: int) -> str:
    """Where something went wrong. All count from 0; step 0 is the reset, step n the nth `step()`."""
    return f"environment {name!r}, slot {slot}, step {step} of episode {episode}"


def shown(value: object) -> str:
    """What kind of value this is, for a message about one that should be another."""
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {value.shape}"
    text = repr(value)
    return f"{text} ({type(value).__name__})" if len(text) <= 40 else f"a {type(value).__name__}"


def unpack_reset(result: object) -> object:
    """The observation in what `reset()` returned.

    Raises:
        MismatchError: it is not (observation, info).
    """
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise MismatchError(f"reset() gave {_parts(result)}, not a tuple (observation, info)")
    return result[0]


def check_signals(reward: object, terminated: object, truncated: object) -> None:
    """See that these are a number and two booleans.

    Raises:
        MismatchError: one of them is something else.
    """
    if not isinstance(reward, _NUMBER):
        raise MismatchError(f"reward is {shown(reward)}, not a number")
    if not isinstance(terminated, _FLAG):
        raise MismatchError(f"terminated is {shown(terminated)}, not a bool")
    if not isinstance(truncated, _FLAG):
        raise MismatchError(f"truncated is {shown(truncated)}, not a bool")


def wrong_step(result: object) -> MismatchError:
    """What to say of a result of `step()` that has not its five parts."""
    five = "(observation, reward, terminated, truncated, info)"
    return MismatchError(f"step() gave {_parts(result)}, not a tuple {five}")


def _parts(result: object) -> str:
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else shown(result)
