"""Keeps an actor in prompts: asks when it has room, gives signs of life, tells what was lost."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from troupe.store.leases import Lease, Wait

BEATS = 4
"""Signs of life within a visibility timeout."""
_ASK_SECONDS = 0.02


class Leaser(Protocol):
    """What is asked of `troupe.store.leases.Leases`."""

    def lease(self, count: int, version: int) -> list[Lease] | Wait:
        """Up to `count` prompts, or why there are none."""
        ...

    def heartbeat(self, leases: Sequence[Lease]) -> list[Lease]:
        """Give a sign of life; those that are lost."""
        ...


class Supply:
    """One actor's prompts, between two steps of its engine. Not for lockstep.

    Signs of life come from the loop itself, not from a thread beside it: an actor that hangs loses
    its prompts.

    Args:
        leases: where prompts come from.
        timeout: the visibility timeout in seconds.
        clock: seconds from anywhere.
    """

    def __init__(
        self, leases: Leaser, timeout: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.held: dict[int, Lease] = {}
        """By ticket: what is being answered."""
        self.waiting_for = ""
        """Why there are no more prompts, in words; empty while there are."""
        self.over = False
        """There never will be any more."""
        self._leases = leases
        self._period = timeout / BEATS
        self._clock = clock
        self._beat_due = clock() + self._period
        self._ask_due = clock()

    def more(self, room: int, version: int) -> list[Lease]:
        """New prompts where there is room for some; `version` is of the weights that we have."""
        if room <= 0 or self.over or self._clock() < self._ask_due:
            return []
        given = self._leases.lease(room, version)
        if isinstance(given, Wait):
            self.waiting_for, self.over = given.reason, given.over
            self._ask_due = self._clock() + _ASK_SECONDS
            return []
        self.waiting_for = ""
        self.held |= {lease.ticket: lease for lease in given}
        return given

    def lost(self) -> list[Lease]:
        """Give a sign of life where it is time to; what is no longer ours, and is to be cancelled."""
        if self._clock() < self._beat_due:
            return []
        self._beat_due = self._clock() + self._period
        gone = self._leases.heartbeat([*self.held.values()])
        self.finish(gone)
        return gone

    def finish(self, leases: Iterable[Lease]) -> None:
        """These are answered or given up: they need no more signs of life."""
        for lease in leases:
            self.held.pop(lease.ticket, None)
