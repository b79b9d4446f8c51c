"""Batches: blocks joined and brought to the learner's device, then divided for optimizer steps."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from troupe.episodes import PROMPT, TOKEN, Array, Columns, Episodes
from troupe_learners.algorithms import ACTIONS, OBSERVATION, VERSION, Batch

_STREAM_BITS = 16
_EPISODE_BITS = 40
"""An environment's fragments have the group `environment << 40 | episode`."""


class Piece(NamedTuple):
    """A block, or some of its steps, on its way into a batch."""

    block: Episodes
    credit: Columns
    """By name, [S]: what the algorithm computed of the whole block."""
    rows: slice | None = None
    """Which steps; none is the whole block with its fragments."""
    id: str = ""
    """The block's, in the store."""
    fresh: bool = True
    """Whether its steps are yet to be counted: not if a dead learner had taken them."""

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return self.block.steps if self.rows is None else self.rows.stop - self.rows.start

    def cut(self, column: Array) -> Array:
        """This piece's part of a per-step column of the block."""
        return column if self.rows is None else column[self.rows]


def first_stream(block: Episodes) -> int:
    """The stream of a block's first environment: its actor's slot << 16."""
    return int(block.actor.rpartition("-")[2]) << _STREAM_BITS


def join(pieces: Sequence[Piece], device: torch.device) -> Batch:
    """One batch of pieces, in their order; with columns per fragment if all are whole blocks.

    A piece without steps, as of a turn in which nothing came of any prompt, need not have columns.
    """
    pieces = [piece for piece in pieces if piece.steps] or pieces
    blocks = [piece.block for piece in pieces]

    def steps(columns: Sequence[Array]) -> Tensor:
        parts = [piece.cut(column) for piece, column in zip(pieces, columns, strict=True)]
        return _on(device, np.concatenate(parts))

    def fragments(columns: Sequence[Array]) -> Tensor:
        return _on(device, np.concatenate(columns))

    first = pieces[0]
    batch = Batch(
        observation={n: steps([b.observation[n] for b in blocks]) for n in blocks[0].observation},
        action={n: steps([b.action[n] for b in blocks]) for n in blocks[0].action},
        step={
            VERSION: steps([b.version for b in blocks]),
            "reward": steps([b.reward for b in blocks]),
            "log_prob": steps([b.log_prob for b in blocks]),
            **{name: steps([p.credit[name] for p in pieces]) for name in first.credit},
        },
    )
    if any(piece.rows is not None for piece in pieces):
        return batch
    return Batch(
        observation=batch.observation,
        action=batch.action,
        step=batch.step,
        fragment={
            "length": fragments([b.length for b in blocks]).long(),
            "ending": fragments([b.ending for b in blocks]),
            "seat": fragments([b.seat for b in blocks]),
            "group": fragments(_groups(blocks)),
            "stream": fragments([_streams(b) for b in blocks]),
        },
        final={n: fragments([b.final[n] for b in blocks]) for n in blocks[0].final},
        initial={n: fragments([b.initial[n] for b in blocks]) for n in blocks[0].initial},
        context={n: fragments([b.context[n] for b in blocks]) for n in blocks[0].context},
        about={n: fragments(_about(n, blocks)) for n in blocks[0].about},
    )


def drawn(columns: Columns, device: torch.device) -> Batch:
    """A batch of what a replay memory drew, see `Memory.sample`."""
    tensors = {name: _on(device, column) for name, column in columns.items()}

    def section(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    rest = {n: t for n, t in tensors.items() if not n.startswith((OBSERVATION, ACTIONS))}
    return Batch(section(OBSERVATION), section(ACTIONS), rest)


def shuffled(batch: Batch, parts: int, random: np.random.Generator) -> Iterator[Batch]:
    """An epoch in `parts` minibatches, as even as can be, of steps in random order.

    The whole batch is put in that order at once, so that a minibatch is a view.
    """
    if parts == 1:
        yield batch
        return
    order = torch.from_numpy(random.permutation(batch.steps)).to(_device(batch))
    sizes = _even(batch.steps, parts)
    observation = _divided(batch.observation, order, sizes)
    action = _divided(batch.action, order, sizes)
    step = _divided(batch.step, order, sizes)
    for columns in zip(observation, action, step, strict=True):
        yield Batch(*columns)


def shuffled_fragments(
    batch: Batch, parts: int, random: np.random.Generator, *, together: bool = False
) -> Iterator[Batch]:
    """An epoch in at most `parts` minibatches of whole fragments in random order, with about the
    same number of steps each; of whole groups in random order if they stay `together`."""
    length = batch.fragment["length"].cpu().numpy()
    unit = _units(batch, together=together)
    parts = min(parts, units(batch, together=together))
    if parts == 1:
        yield batch
        return
    order = random.permutation(int(unit.max()) + 1)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    steps = np.bincount(unit, length).astype(np.int64)[order]
    ends = np.concatenate([[0], np.cumsum(np.bincount(unit)[order])])
    bounds = ends[_bounds(steps, parts)].tolist()
    yield from _of_fragments(batch, length, np.argsort(place[unit], kind="stable"), bounds)


def units(batch: Batch, *, together: bool) -> int:
    """Into how many parts of whole fragments, or of whole groups, a batch can be divided."""
    return len(np.unique(_units(batch, together=together)))


def split(minibatch: Batch, limit: int | None, *, whole: bool = False) -> Iterator[Batch]:
    """A minibatch in parts of at most `limit` steps, as even as can be; in one part without.

    Args:
        minibatch: what is divided, in its order.
        limit: a fragment longer than this is a part of its own.
        whole: parts are of whole fragments; then the prompts that a part has to read count too.
    """
    parts = -(-minibatch.steps // limit) if limit else 1
    if limit and whole:
        length = minibatch.fragment["length"].cpu().numpy()
        bounds = _within(length, _prompts(minibatch), limit)
        if len(bounds) == 2:
            yield minibatch
        else:
            yield from _of_fragments(minibatch, length, np.arange(len(length)), bounds)
    elif parts == 1:
        yield minibatch
    else:
        ends = np.cumsum(_even(minibatch.steps, parts)).tolist()
        for start, end in itertools.pairwise([0, *ends]):
            yield minibatch[start:end]


def passed(
    batch: Batch, limit: int | None, passes: Callable[[int], int], *, whole: bool
) -> list[tuple[Batch, bool]]:
    """The same parts, and behind them what only keeps other ranks company.

    Args:
        batch: what is divided, in its order.
        limit: see `split`.
        passes: how many parts there are to be, where so many are needed.
        whole: see `split`.

    Returns:
        Parts, and whether each counts: those that do not are the batch's first fragment, or step.
    """
    parts = list(split(batch, limit, whole=whole))
    more = passes(len(parts)) - len(parts)
    idle = [next(split(batch, 1, whole=whole))] * more if more else []
    return [*((part, True) for part in parts), *((part, False) for part in idle)]


def _of_fragments(
    batch: Batch, length: NDArray[np.int64], order: NDArray[np.int64], bounds: Sequence[int]
) -> Iterator[Batch]:
    """Fragments in a given order, divided at bounds."""
    device = _device(batch)
    ordered = length[order]
    ends = np.cumsum(ordered)
    shift = (np.cumsum(length) - length)[order] - (ends - ordered)
    rows = torch.from_numpy(np.repeat(shift, ordered) + np.arange(batch.steps)).to(device)
    fragments = torch.from_numpy(order).to(device)
    step_sizes = np.diff(np.concatenate([[0], ends])[list(bounds)]).tolist()
    fragment_sizes = np.diff(bounds).tolist()
    for observation, action, step, own, final, initial, about in zip(
        _divided(batch.observation, rows, step_sizes),
        _divided(batch.action, rows, step_sizes),
        _divided(batch.step, rows, step_sizes),
        _divided(batch.fragment, fragments, fragment_sizes),
        _divided(batch.final, fragments, fragment_sizes),
        _divided(batch.initial, fragments, fragment_sizes),
        _divided(batch.about, fragments, fragment_sizes),
        strict=True,
    ):
        yield Batch(observation, action, step, own, final, initial, batch.context, about)


def _divided(
    columns: Mapping[str, Tensor], order: Tensor, sizes: Sequence[int]
) -> list[dict[str, Tensor]]:
    """Columns put in order and divided: one mapping for each part."""
    parts = [torch.split(column.index_select(0, order), list(sizes)) for column in columns.values()]
    names = columns.keys()
    if not parts:
        return [{} for _ in sizes]
    return [dict(zip(names, part, strict=True)) for part in zip(*parts, strict=True)]


def _even(count: int, parts: int) -> list[int]:
    """Sizes that sum to `count` and differ by at most 1."""
    return [count * (part + 1) // parts - count * part // parts for part in range(parts)]


def _bounds(length: NDArray[np.int64], parts: int) -> list[int]:
    """Where to divide fragments into exactly `parts`, none empty, of about as many steps."""
    ends = np.cumsum(length)
    bounds = [0]
    for part in range(1, parts):
        wanted = int(np.searchsorted(ends, ends[-1] * part / parts - 0.5)) + 1
        bounds.append(min(max(wanted, bounds[-1] + 1), len(length) - parts + part))
    return [*bounds, len(length)]


def _within(length: NDArray[np.int64], prompts: Sequence[tuple[int, int]], limit: int) -> list[int]:
    """Where to divide fragments so that no part has more than `limit` steps, or one fragment.

    A prompt counts once in each part that has a fragment of it.
    """
    bounds, held, read = [0], 0, set[int]()
    for index, (steps, (start, size)) in enumerate(zip(length.tolist(), prompts, strict=True)):
        if held and held + steps + (0 if start in read else size) > limit:
            bounds.append(index)
            held = 0
            read.clear()
        held += steps + (0 if start in read else size)
        read.add(start)
    return [*bounds, len(length)]


def _prompts(batch: Batch) -> list[tuple[int, int]]:
    """Where each fragment's prompt begins, and its tokens; none where there is no text."""
    if PROMPT not in batch.about:
        return [(0, 0)] * len(batch.fragment["length"])
    return [(start, end - start) for start, end in batch.about[PROMPT].tolist()]


def _units(batch: Batch, *, together: bool) -> NDArray[np.int64]:
    """int64 [N]: which fragments may not be parted, numbered from 0."""
    group: NDArray[np.int64] = batch.fragment["group" if together else "length"].cpu().numpy()
    return group if together else np.arange(len(group))


def _groups(blocks: Sequence[Episodes]) -> list[NDArray[np.int64]]:
    """int64 [N] of each block: its groups, numbered on from one block to the next."""
    numbered, start = [], 0
    for block in blocks:
        groups, number = np.unique(block.group, return_inverse=True)
        numbered.append(number + start)
        start += len(groups)
    return numbered


def _about(name: str, blocks: Sequence[Episodes]) -> list[Array]:
    """A column of each block; prompts lie where they are in the joined context."""
    columns = [block.about[name] for block in blocks]
    if name != PROMPT:
        return columns
    sizes = np.cumsum([0, *(len(block.context[TOKEN]) for block in blocks)])
    return [column + shift for column, shift in zip(columns, sizes[:-1], strict=True)]


def _streams(block: Episodes) -> NDArray[np.int64]:
    """int64 [N]: the stream of each fragment."""
    row: NDArray[np.int64] = (block.group >> _EPISODE_BITS) & ((1 << _STREAM_BITS) - 1)
    return row + first_stream(block)


def _device(batch: Batch) -> torch.device:
    return next(iter(batch.step.values())).device


def _on(device: torch.device, column: Array) -> Tensor:
    """A host column on the device; does not wait for the copy.

    PyTorch computes little with unsigned integers of more than 8 bits.
    """
    if column.dtype in (np.uint16, np.uint32, np.uint64):
        column = column.astype(np.int64)
    tensor = torch.from_numpy(column)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
