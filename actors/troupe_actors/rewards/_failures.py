"""How often a reward has failed, and when that is too often."""

from collections import deque

from troupe.errors import FatalError

WINDOW = 1000
"""Samples that are looked back on."""


class RewardFaultError(FatalError):
    """A reward fails on too many samples: names it, the share and the last reason."""


class Failures:
    """Counts the failures of one reward.

    Samples that the window still lacks count as sound, so that one failure at the start ends
    nothing, and a reward that always fails is found out after `max_failed * WINDOW` samples.
    """

    def __init__(self, label: str, max_failed: float) -> None:
        self.total = 0
        self._label = label
        self._max_failed = max_failed
        self._newest: deque[bool] = deque(maxlen=WINDOW)

    def sound(self) -> None:
        """It judged a sample."""
        self._newest.append(False)

    def failed(self, reason: str) -> None:
        """It did not.

        Raises:
            RewardFaultError: it failed too often.
        """
        self._newest.append(True)
        self.total += 1
        failed = sum(self._newest)
        if failed > self._max_failed * WINDOW:
            raise RewardFaultError(
                f"reward {self._label!r}: failed on {failed} of the newest {len(self._newest)} "
                f"samples, max_failed is {self._max_failed:g} of {WINDOW}; the last time: {reason}"
            )
