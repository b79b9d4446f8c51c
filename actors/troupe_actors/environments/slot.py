"""One environment among many: made, started with its episode's seed, and restarted when it fails."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import gymnasium

from troupe.errors import TroupeError
from troupe_actors.environments.faults import (
    EnvironmentFaultError,
    Failures,
    MismatchError,
    place,
    unpack_reset,
)
from troupe_actors.environments.transition import Seeds

Env: TypeAlias = gymnasium.Env[Any, Any]


class Slot:
    """The environment in one row; `episode` is the number of the one that it plays."""

    def __init__(self, name: str, row: int, make: Callable[[], Env], failures: Failures) -> None:
        self.episode = 0
        self.failures = failures
        self._name = name
        self._row = row
        self._make = make
        self.env = self._open(0)

    def start(self, seeds: Seeds, steps: int) -> object:
        """Reset to the beginning of `episode`, or of a later one where that fails; its observation.

        Raises:
            EnvironmentFaultError: it fails too often in a row, or does not return what it should.
        """
        while True:
            try:
                result = self.env.reset(seed=seeds.of(self._row, self.episode))
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything
                self.restart(error, 0, steps)
                continue
            try:
                return unpack_reset(result)
            except MismatchError as mismatch:
                raise self.fault(str(mismatch), 0) from None

    def restart(self, error: Exception, step: int, steps: int) -> None:
        """After `error` in that step of the episode: wait, and make it anew for the next episode.

        Raises:
            EnvironmentFaultError: it fails too often in a row.
        """
        where = place(self._name, self._row, step, self.episode)
        self.failures.failed(error, where, steps)
        self.close()
        self.env = self._open(steps)
        self.episode += 1

    def fault(self, what: str, step: int) -> EnvironmentFaultError:
        """The error that says `what` is wrong with this environment in that step."""
        return EnvironmentFaultError(f"{place(self._name, self._row, step, self.episode)}: {what}")

    def close(self) -> None:
        """Let go of it, whatever it says."""
        with suppress(Exception):
            self.env.close()

    def _open(self, steps: int) -> Env:
        while True:
            try:
                return self._make()
            except TroupeError:
                raise
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything
                where = f"environment {self._name!r}, slot {self._row}, being made"
                self.failures.failed(error, where, steps)
