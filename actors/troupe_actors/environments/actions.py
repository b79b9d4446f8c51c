"""Action spaces: what a policy chooses and what is recorded, against what the environment is given."""

import math
from typing import cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from troupe.episodes import Array
from troupe.errors import UserError
from troupe_actors.environments.faults import WrongActionError
from troupe_actors.environments.observations import Space, narrowed, shown_space


class Actions:
    """The actions of E environments.

    A policy is told a space that is flat and counts from 0: Discrete(n), MultiDiscrete([n, ...]),
    MultiBinary(n) or a Box of float32 and one axis.
    """

    space: Space

    def __init__(self, theirs: object, count: int) -> None:
        """Describe a space for `count` environments.

        Raises:
            UserError: no policy acts in such a space.
        """
        self._count = count
        self._discrete = False
        self._whole = True
        self._start: Array | int = 0
        self._least: Array | int = 0
        self._most: Array | int = 1
        match theirs:
            case spaces.Discrete():
                self.space = cast(Space, spaces.Discrete(int(theirs.n)))
                self._start, self._most = int(theirs.start), int(theirs.n) - 1
                self._discrete, self._end = True, int(theirs.n) - 1
            case spaces.MultiDiscrete():
                self.space = spaces.MultiDiscrete(theirs.nvec.reshape(-1))
                self._start, self._most = theirs.start.reshape(-1), theirs.nvec.reshape(-1) - 1
            case spaces.MultiBinary():
                self.space = spaces.MultiBinary(math.prod(theirs.shape))
            case spaces.Box() if theirs.dtype.kind == "f":
                self.space = _flat(theirs)
                self._whole = False
                self._least, self._most = theirs.low.reshape(-1), theirs.high.reshape(-1)
            case _:
                raise UserError(
                    f"action is {shown_space(theirs)}; it may be Discrete, MultiDiscrete, "
                    "MultiBinary or a Box of floats"
                )
        self._dtype = theirs.dtype
        self._given = theirs.shape or ()
        self._row = self.space.shape or ()

    def batch(self, actions: Array) -> Array:
        """[E, ...] as the environments are given them: clipped, in their own shape and dtype.

        Raises:
            ValueError, WrongActionError: as `convert`; or they are not E.
        """
        if len(actions) != self._count:
            raise self._unlike(actions)
        return self.convert(actions)

    def convert(self, actions: Array) -> Array:
        """The same for any number of actions.

        Raises:
            ValueError: `actions` has another shape or kind of number than `space`.
            WrongActionError: one of them is out of bounds, or not finite.
        """
        if actions.shape[1:] != self._row or (self._whole and actions.dtype.kind not in "iub"):
            raise self._unlike(actions)
        if not len(actions):
            return actions
        if self._discrete and self._inside(actions):
            return (actions + self._start).astype(self._dtype, copy=False)
        if self._whole:
            self._refuse((actions < self._least) | (actions > self._most), actions, "out of bounds")
            whole: Array = (actions + self._start).astype(self._dtype, copy=False)
            return whole.reshape(-1, *self._given)
        flat = actions.reshape(-1)
        if not math.isfinite(flat.dot(flat)):
            self._refuse(~np.isfinite(actions), actions, "not finite")
        # Clipped in their dtype: a bound rounded to float32 may lie outside.
        given: Array = np.minimum(
            np.maximum(actions.astype(self._dtype, copy=False), self._least), self._most
        )
        return given.reshape(-1, *self._given)

    def _inside(self, actions: Array) -> bool:
        """Whether all of a Discrete space are in bounds: few numbers are compared faster so."""
        numbers: list[int] = actions.tolist()
        return min(numbers) >= 0 and max(numbers) <= self._end

    def _unlike(self, actions: Array) -> ValueError:
        return ValueError(
            f"actions are {actions.dtype} {actions.shape}, not {self.space} for each of "
            f"{self._count} environments"
        )

    def _refuse(self, wrong: NDArray[np.bool_], actions: Array, what: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong.reshape(len(wrong), -1).any(axis=1)))
            raise WrongActionError(row, f"action {actions[row].tolist()} is {what} in {self.space}")


def _flat(space: spaces.Box) -> spaces.Box:
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    return narrowed(spaces.Box(low, high, dtype=space.dtype.type))
