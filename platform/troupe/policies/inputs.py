"""Observations as features: which columns there are, and how each enters a network.

Numbers (Box) come first, as they are; those of uint8 as shares of 255. Then one-hot whole numbers
(Discrete, MultiDiscrete) and bits (MultiBinary). Three-dimensional boxes that are large enough are
images and pass through convolutions. The mask of legal actions is no feature.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces as gym
from numpy.typing import NDArray
from torch import Tensor, nn

from troupe.episodes import Array, Columns
from troupe.errors import UserError
from troupe.policies import Spaces
from troupe.policies.convolutions import SMALLEST, Convolutions
from troupe.policies.normaliser import LIMIT, Moments

MASK = "action_mask"
"""The column, MultiBinary, that says which actions are legal."""

_KINDS = ("numbers", "choices", "bits", "image")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of observations."""

    name: str
    kind: Literal["numbers", "choices", "bits", "image"]
    shape: tuple[int, ...]
    """Of the space, for one step."""
    size: int
    """How many features; of an image, none of its own."""
    counts: tuple[int, ...] = ()
    """Of choices: how many values each whole number may have."""
    divisor: float = 1.0


def columns_of(spaces: Spaces) -> tuple[Column, ...]:
    """The columns that are features, those of one kind side by side, numbers first.

    Raises:
        UserError: a space that no network here reads, or nothing but a mask.
    """
    columns = [_column(name, s) for name, s in spaces.observation.items() if name != MASK]
    if not columns:
        raise UserError("observation: nothing to see but `action_mask`; a network needs features")
    return tuple(sorted(columns, key=lambda column: _KINDS.index(column.kind)))


def mask_size(spaces: Spaces) -> int:
    """How many actions the column `action_mask` covers; 0 where there is none.

    Raises:
        UserError: it is not MultiBinary.
    """
    space = spaces.observation.get(MASK)
    if space is None:
        return 0
    if not isinstance(space, gym.MultiBinary):
        raise UserError(f"observation.{MASK}: {space}; a mask of legal actions is MultiBinary")
    return math.prod(space.shape)


class Inputs(nn.Module):
    """Columns of observations -> features; the numbers among them normalised if asked for."""

    def __init__(self, spaces: Spaces, *, normalise: bool) -> None:
        """Raises UserError as `columns_of`."""
        super().__init__()
        self.columns = columns_of(spaces)
        self.images = [c for c in self.columns if c.kind == "image"]
        self.width = sum(column.size for column in self.columns)
        """Features besides images."""
        self._numbers = [c for c in self.columns if c.kind == "numbers"]
        self._others = [c for c in self.columns if c.kind in ("choices", "bits")]
        numbers = sum(column.size for column in self._numbers)
        self.moments = Moments(numbers) if normalise and numbers else None

    def features(self, observation: Mapping[str, Tensor]) -> Tensor:
        """float32 [S, width]; empty where there is nothing but images."""
        parts = []
        if self._numbers:
            numbers = self._read(observation)
            parts.append(numbers if self.moments is None else self.moments.normalise(numbers))
        for column in self._others:
            given = observation[column.name]
            if column.kind == "bits":
                parts.append(unpacked(given, column.size).float())
            else:
                parts.append(_one_hot(given, column))
        if not parts:
            return torch.empty(0)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def observe(
        self, observation: Mapping[str, Tensor], add_up: Callable[[Tensor], Tensor]
    ) -> None:
        """Merge the moments of a batch's numbers, raw, by name [S, ...]; see `Moments.observe`."""
        if self.moments is not None:
            self.moments.observe(self._read(observation), add_up)

    def _read(self, observation: Mapping[str, Tensor]) -> Tensor:
        parts = []
        for column in self._numbers:
            given = observation[column.name].reshape(-1, column.size).float()
            parts.append(given if column.divisor == 1.0 else given / column.divisor)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class Encoder(nn.Module):
    """Features and what convolutions make of the images, side by side; without images, no layers."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self._columns = inputs.images
        self.images = nn.ModuleList(Convolutions(column.shape) for column in inputs.images)
        self._flat = inputs.width > 0
        self.width = inputs.width + sum(c.width for c in self._convolutions)

    @property
    def _convolutions(self) -> list[Convolutions]:
        return [image for image in self.images if isinstance(image, Convolutions)]

    def encode(self, features: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """float32 [S, width] of features [S, ...] and the raw images of the same steps."""
        if not self._columns:
            return features
        parts = [features] if self._flat else []
        for column, convolutions in zip(self._columns, self._convolutions, strict=True):
            parts.append(convolutions.encode(observation[column.name].float() / column.divisor))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class HostInputs:
    """What `Inputs` does, on numpy arrays and without images."""

    def __init__(self, inputs: Inputs) -> None:
        self._columns = inputs.columns
        self._numbers = sum(c.size for c in inputs.columns if c.kind == "numbers")
        self._plain = len(inputs.columns) == 1 and self._columns[0].kind == "numbers"
        self._moments: tuple[Array, Array] | None = None
        if inputs.moments is not None:
            mean, deviation = inputs.moments.mean_and_deviation()
            self._moments = mean.numpy(), deviation.numpy()

    def features(self, observation: Columns) -> NDArray[np.float32]:
        """float32 [B, width]; may be the observation itself."""
        first = observation[self._columns[0].name]
        if self._plain and first.dtype == np.float32:
            x: NDArray[np.float32] = first if first.ndim == 2 else first.reshape(-1, self._numbers)
        else:
            x = np.concatenate([_host(observation[c.name], c) for c in self._columns], axis=1)
        if self._moments is None:
            return x
        mean, deviation = self._moments
        numbers: NDArray[np.float32] = x[:, : self._numbers] - mean
        numbers /= deviation
        np.minimum(np.maximum(numbers, -LIMIT, out=numbers), LIMIT, out=numbers)
        if self._numbers == x.shape[1]:
            return numbers
        return np.concatenate([numbers, x[:, self._numbers :]], axis=1)


def unpacked(packed: Tensor, bits: int) -> Tensor:
    """uint8 [S, bytes] -> uint8 [S, bits], 0 or 1; the lowest bit of a byte comes first."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> places) & 1).flatten(1)[:, :bits]


def host_unpacked(packed: Array, bits: int) -> NDArray[np.uint8]:
    """The same on a numpy array."""
    return np.unpackbits(packed, axis=1, count=bits, bitorder="little")


def _column(name: str, space: gym.Space[NDArray[np.generic]]) -> Column:
    shape = tuple(space.shape or ())
    match space:
        case gym.Box() if space.dtype.kind in "fiu":
            divisor = 255.0 if space.dtype == np.uint8 else 1.0
            if len(shape) == 3 and sorted(shape)[1] >= SMALLEST:
                return Column(name, "image", shape, 0, divisor=divisor)
            return Column(name, "numbers", shape, math.prod(shape), divisor=divisor)
        case gym.Discrete():
            return Column(name, "choices", shape, int(space.n), (int(space.n),))
        case gym.MultiDiscrete():
            counts = tuple(int(n) for n in space.nvec.reshape(-1))
            return Column(name, "choices", shape, sum(counts), counts)
        case gym.MultiBinary():
            return Column(name, "bits", shape, math.prod(shape))
    raise UserError(
        f"observation.{name}: no network reads {space}; it may be Box, Discrete, MultiDiscrete or "
        "MultiBinary"
    )


def _starts(counts: tuple[int, ...]) -> list[int]:
    return [sum(counts[:i]) for i in range(len(counts))]


def _one_hot(given: Tensor, column: Column) -> Tensor:
    rows = given.reshape(-1, len(column.counts)).long()
    if len(column.counts) > 1:
        rows = rows + torch.tensor(_starts(column.counts), device=rows.device)
    return torch.zeros(len(rows), column.size, device=rows.device).scatter_(1, rows, 1.0)


def _host(given: Array, column: Column) -> NDArray[np.float32]:
    if column.kind == "bits":
        return host_unpacked(given, column.size).astype(np.float32)
    if column.kind == "numbers":
        x: NDArray[np.float32] = given.reshape(-1, column.size).astype(np.float32)
        if column.divisor != 1.0:
            x /= np.float32(column.divisor)
        return x
    flat = given.reshape(-1, len(column.counts))
    x = np.zeros((len(flat), column.size), np.float32)
    np.put_along_axis(x, flat + np.array(_starts(column.counts)), 1.0, axis=1)
    return x
