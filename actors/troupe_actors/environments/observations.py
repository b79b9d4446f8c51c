"""Observation spaces as named columns: how each is described, checked and copied into its rows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from troupe.episodes import Array
from troupe.errors import UserError
from troupe_actors.environments.faults import MismatchError, shown

Space: TypeAlias = spaces.Space[NDArray[np.generic]]
Path: TypeAlias = tuple[str | int, ...]

ALONE = "observation"
"""The name of the one column of an observation that is neither a Dict nor a Tuple."""
_SEPARATOR = "/"
_ARRAY = (np.ndarray, np.generic)
_ONE: tuple[int, ...] = ()


class Column(Protocol):
    """One part of an observation, which is one array of `dtype` and [E, *shape]."""

    name: str
    path: Path
    """Keys from the whole observation to this part."""
    space: Space
    """What travels, as a policy is told."""
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def put(self, into: Array, row: int, value: object) -> None:
        """Check one environment's value and copy it into its row; raises MismatchError."""
        ...

    def fill(self, into: Array, value: object) -> None:
        """Check the values of all environments, [E, ...], and copy them; raises MismatchError."""
        ...


class Layout:
    """The columns of an observation space. Float columns are float32, others as they are."""

    def __init__(self, space: spaces.Space[object]) -> None:
        """Describe a space.

        Raises:
            UserError: a part of it cannot be told to a network.
        """
        self.columns = [_column(path, part) for path, part in _parts(space)]
        self.spaces: dict[str, Space] = {column.name: column.space for column in self.columns}
        if len(self.spaces) < len(self.columns):
            raise UserError("two parts of the observation space have one name")
        self._alone = self.columns[0] if self.columns and not self.columns[0].path else None
        self._floats = [c.name for c in self.columns if c.dtype.kind == "f"]

    def empty(self, rows: int) -> dict[str, Array]:
        """Columns of that many rows, to be filled."""
        return {c.name: np.empty((rows, *c.shape), c.dtype) for c in self.columns}

    def put(self, into: Mapping[str, Array], row: int, observation: object) -> None:
        """Check one environment's observation and copy it into its row.

        Raises:
            MismatchError: it is not of its space; bounds of a Box aside, which many leave slightly.
        """
        if self._alone is not None:
            self._alone.put(into[ALONE], row, observation)
            return
        for column in self.columns:
            column.put(into[column.name], row, _part(observation, column))

    def fill(self, into: Mapping[str, Array], observation: object) -> None:
        """Check the observations of all environments, batched as Gymnasium does, and copy them.

        Raises:
            MismatchError: they are not of their space.
        """
        for column in self.columns:
            column.fill(into[column.name], _part(observation, column))

    def unfit(self, columns: Mapping[str, Array]) -> tuple[int, str] | None:
        """The first row that holds NaN or an infinite value, and what to say of it."""
        for name in self._floats:
            row = first_not_finite(columns[name])
            if row is not None:
                return row, f"{_called(name)} is not finite: {_peek(columns[name][row])}"
        return None


def first_not_finite(values: Array) -> int | None:
    """The first row [E, ...] with NaN or an infinite value. Fast where there is none."""
    flat = values.reshape(-1)
    if math.isfinite(flat.dot(flat)):  # NaN and infinity survive a sum of squares
        return None
    sound = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return None if sound.all() else int(np.argmin(sound))


class _BoxColumn:
    """Numbers in an array; those of 8 to 64 bits whole ones stay as they are."""

    def __init__(self, path: Path, space: spaces.Box) -> None:
        kind = space.dtype.kind
        if kind not in "fiu":
            raise UserError(
                f"{_called(_name(path))} is a Box of {space.dtype}, which nothing reads"
            )
        self.name, self.path, self.shape = _name(path), path, space.shape
        self._given = space.dtype
        self.dtype: np.dtype[np.generic] = np.dtype(np.float32) if kind == "f" else space.dtype
        self.space: Space = narrowed(space) if kind == "f" else space

    def put(self, into: Array, row: int, value: object) -> None:
        if not isinstance(value, _ARRAY) or value.shape != self.shape or value.dtype != self._given:
            raise self._other(value, self.shape)
        into[row] = value

    def fill(self, into: Array, value: object) -> None:
        if (
            not isinstance(value, np.ndarray)
            or value.shape != into.shape
            or value.dtype != self._given
        ):
            raise self._other(value, into.shape)
        into[:] = value

    def _other(self, value: object, shape: tuple[int, ...]) -> MismatchError:
        right = f"an array {self._given} {shape}"
        return MismatchError(f"{_called(self.name)} is {shown(value)}; its space says {right}")


class _NumberColumn:
    """One whole number, counted from 0 whatever the space's start."""

    def __init__(self, path: Path, space: spaces.Discrete) -> None:
        self.name, self.path, self.shape = _name(path), path, _ONE
        self.dtype: np.dtype[np.generic] = np.dtype(np.int64)
        self._start, self._end = int(space.start), int(space.start + space.n)
        self.space = cast(Space, spaces.Discrete(int(space.n)))

    def put(self, into: Array, row: int, value: object) -> None:
        if isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind in "iu":
            value = value.item()
        if not isinstance(value, int | np.integer) or not self._start <= value < self._end:
            raise self._other(value)
        into[row] = value - self._start

    def fill(self, into: Array, value: object) -> None:
        if (
            not isinstance(value, np.ndarray)
            or value.shape != into.shape
            or value.dtype.kind not in "iu"
        ):
            raise self._other(value)
        outside = (value < self._start) | (value >= self._end)
        if outside.any():
            raise self._other(value[np.argmax(outside)])
        into[:] = value - self._start

    def _other(self, value: object) -> MismatchError:
        right = f"a whole number from {self._start} to {self._end - 1}"
        return MismatchError(f"{_called(self.name)} is {shown(value)}; its space says {right}")


class _NumbersColumn:
    """Several whole numbers, each counted from 0."""

    def __init__(self, path: Path, space: spaces.MultiDiscrete) -> None:
        self.name, self.path, self.shape = _name(path), path, space.shape
        self.dtype: np.dtype[np.generic] = np.dtype(np.int64)
        self._start, self._count = space.start, space.nvec
        self.space: Space = spaces.MultiDiscrete(space.nvec)

    def put(self, into: Array, row: int, value: object) -> None:
        into[row] = self._checked(value, self.shape)

    def fill(self, into: Array, value: object) -> None:
        into[:] = self._checked(value, into.shape)

    def _checked(self, value: object, shape: tuple[int, ...]) -> Array:
        if isinstance(value, np.ndarray) and value.shape == shape and value.dtype.kind in "iu":
            from_0 = value.astype(np.int64) - self._start
            if not ((from_0 < 0) | (from_0 >= self._count)).any():
                return from_0
            raise MismatchError(f"{_called(self.name)} is out of bounds: {_peek(value)}")
        right = f"an array of whole numbers {shape}"
        raise MismatchError(f"{_called(self.name)} is {shown(value)}; its space says {right}")


class _BitsColumn:
    """Zeros and ones, eight to a byte as `Episodes` holds them."""

    def __init__(self, path: Path, space: spaces.MultiBinary) -> None:
        self.name, self.path = _name(path), path
        self.shape: tuple[int, ...] = (math.ceil(math.prod(space.shape) / 8),)
        self.dtype: np.dtype[np.generic] = np.dtype(np.uint8)
        self.space: Space = space
        self._given = space.shape

    def put(self, into: Array, row: int, value: object) -> None:
        checked = self._checked(value, self._given)
        into[row] = np.packbits(checked, axis=None, bitorder="little")

    def fill(self, into: Array, value: object) -> None:
        checked = self._checked(value, (len(into), *self._given)).reshape(len(into), -1)
        into[:] = np.packbits(checked, axis=1, bitorder="little")

    def _checked(self, value: object, shape: tuple[int, ...]) -> Array:
        if isinstance(value, np.ndarray) and value.shape == shape and value.dtype.kind in "biu":
            if not ((value != 0) & (value != 1)).any():
                return value.astype(np.uint8)
            raise MismatchError(
                f"{_called(self.name)} has values other than 0 and 1: {_peek(value)}"
            )
        right = f"an array of zeros and ones {shape}"
        raise MismatchError(f"{_called(self.name)} is {shown(value)}; its space says {right}")


def narrowed(space: spaces.Box) -> spaces.Box:
    """The same Box in float32, which is what networks read and what travels."""
    with np.errstate(over="ignore"):  # the largest float64 is as good as infinite
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def _parts(space: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _parts(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _parts(part, (*path, index))
    else:
        yield path, space


def _column(path: Path, space: object) -> Column:
    match space:
        case spaces.Box():
            return _BoxColumn(path, space)
        case spaces.Discrete():
            return _NumberColumn(path, space)
        case spaces.MultiDiscrete():
            return _NumbersColumn(path, space)
        case spaces.MultiBinary():
            return _BitsColumn(path, space)
    raise UserError(
        f"{_called(_name(path))} is {shown_space(space)}; it may be Box, Discrete, MultiDiscrete, "
        "MultiBinary, or a Dict or Tuple of these"
    )


def shown_space(space: object) -> str:
    """A space in one short line."""
    if isinstance(space, spaces.Box):
        return f"{space.dtype} {space.shape}"
    return str(space) if isinstance(space, spaces.Space) else shown(space)


def _part(observation: object, column: Column) -> object:
    value = observation
    for key in column.path:
        fits = isinstance(value, Mapping) if isinstance(key, str) else isinstance(value, Sequence)
        try:
            assert fits
            value = value[key]  # type: ignore[index]
        except (AssertionError, LookupError):
            raise MismatchError(
                f"{ALONE} has no part {column.name!r}: {shown(observation)}"
            ) from None
    return value


def _name(path: Path) -> str:
    return _SEPARATOR.join(str(key) for key in path) or ALONE


def _called(name: str) -> str:
    return ALONE if name == ALONE else f"{ALONE} {name!r}"


def _peek(value: Array) -> str:
    """The beginning of an array, in one line."""
    few = value.reshape(-1)[:6].tolist()
    return f"{few}" if value.size <= 6 else f"[{', '.join(map(str, few))}, ...]"
