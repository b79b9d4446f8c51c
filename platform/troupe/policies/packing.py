"""Groups of completions as one sequence without padding: each prompt once, its completions behind it.

    prompt a | completion a1 | completion a2 | prompt b | completion b1 | ...

Every completion goes on from its prompt, in position and in what it may look at, as if it stood
alone behind it. A completion's last token is left out: nothing is predicted from it.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.int64]

_SHORT = 64
"""Parts with fewer tokens to look at than this are not told apart by length, and groups with no more
are not taken apart: many small products take longer than a few that are masked for the most part."""


class Block(NamedTuple):
    """Parts of the sequence, B prompts, completions or whole groups, whose attention is computed side
    by side."""

    query: Tensor
    """int64 [B * Q]: the rows of each part, one after the other, padded with row 0."""
    key: Tensor
    """int64 [B * K]: the rows that each part may look at, padded in front, so that they end with its
    own."""
    mask: Tensor
    """bool [B, 1, Q, K]: what each row really looks at."""
    real: Tensor
    """int64: which of `query` are no padding."""


class Segments(NamedTuple):
    """All parts at once, for kernels that take sequences of any length (`varlen_attn`)."""

    key: Tensor
    """int64 [K]: the rows that each part may look at; it is itself the last of them."""
    query_ends: Tensor
    key_ends: Tensor
    """int32 [parts + 1], from 0."""
    longest_query: int
    longest_key: int


class Text(NamedTuple):
    """S sampled tokens of N completions, and their prompts."""

    token: Tensor
    """int [C]: prompts, one after the other."""
    prompt: Tensor
    """int [N, 2]: where in it each completion's prompt begins and ends; the same for a group."""
    action: Tensor
    """int [S]: the sampled tokens."""
    length: Tensor
    """int [N]: how many of them each completion has."""


class Packed(NamedTuple):
    """Text as one sequence of T rows."""

    token: Tensor
    """int64 [T]."""
    position: Tensor
    """int64 [T]: where each token stands behind the beginning of its prompt."""
    predicts: Tensor
    """int64 [S]: the row after which each sampled token came."""
    blocks: tuple[Block, ...] = ()
    order: Tensor | None = None
    """int64 [T]: where each row is in the output of the blocks, laid end to end."""
    segments: Segments | None = None


class Rows(NamedTuple):
    """Text as N rows, each a completion behind its prompt, padded at the end: for any model."""

    token: Tensor
    """int64 [N, longest]."""
    mask: Tensor
    """int64 [N, longest]: 1 where a token is."""
    predicts: Tensor
    """int64 [S]: the place, of N * longest, after which each sampled token came."""


class _Parts(NamedTuple):
    """Prompts and completions in their order, each with what it goes on from."""

    start: Numbers
    """First row."""
    size: Numbers
    prefix: Numbers
    """First row of what comes before it."""
    before: Numbers
    """Rows of what comes before it; 0 for a prompt."""
    group: Numbers
    """The group that it is of."""

    def of(self, chosen: NDArray[np.bool_]) -> "_Parts":
        """Some of them."""
        return _Parts(*(column[chosen] for column in self))


def pack(text: Text, *, varlen: bool) -> Packed:
    """Lay out completions behind their prompts.

    Args:
        text: of which a group's completions need not lie side by side.
        varlen: whether attention is to be laid out in `segments`, else in `blocks`.
    """
    token, prompt, action, length = text
    device = action.device
    where, steps = prompt.cpu().numpy().astype(np.int64), length.cpu().numpy().astype(np.int64)
    first, owner = np.unique(where[:, 0], return_index=True, return_inverse=True)[1:]
    prompts = where[first, 1] - where[first, 0]
    inputs = steps - 1
    order = np.argsort(owner, kind="stable")
    groups = prompts + np.bincount(owner, inputs).astype(np.int64)
    group_start = _before(groups)
    start = np.empty_like(inputs)
    start[order] = _before(inputs[order])
    start += np.cumsum(prompts)[owner]
    total = int(groups.sum())

    rows = np.concatenate([_ranges(group_start, prompts), _ranges(start, inputs)])
    position = np.empty(total, np.int64)
    position[rows] = np.concatenate(
        [_ranges(np.zeros_like(prompts), prompts), _ranges(prompts[owner], inputs)]
    )
    places = _on(device, rows)
    tokens = torch.empty(total, dtype=torch.int64, device=device)
    read = token[_on(device, _ranges(where[first, 0], prompts))].long()
    sampled = action[_on(device, _ranges(_before(steps), inputs))].long()
    tokens[places] = torch.cat([read, sampled])

    predicts = _ranges(start - 1, steps)
    predicts[_before(steps)] = (group_start + prompts - 1)[owner]
    parts = _Parts(
        np.concatenate([group_start, start]),
        np.concatenate([prompts, inputs]),
        np.concatenate([group_start, group_start[owner]]),
        np.concatenate([np.zeros_like(prompts), prompts[owner]]),
        np.concatenate([np.arange(len(prompts)), owner]),
    )
    packed = Packed(tokens, _on(device, position), _on(device, predicts))
    if varlen:
        return packed._replace(segments=_segments(parts, device))
    blocks, output = _blocks(parts, total, device)
    return packed._replace(blocks=blocks, order=output)


def pad(text: Text) -> Rows:
    """Lay out each completion as a row of its own."""
    token, prompt, action, length = text
    device = action.device
    where, steps = prompt.cpu().numpy().astype(np.int64), length.cpu().numpy().astype(np.int64)
    prompts, inputs = where[:, 1] - where[:, 0], steps - 1
    longest = int((prompts + inputs).max())
    start = np.arange(len(steps)) * longest
    tokens = torch.zeros(len(steps) * longest, dtype=torch.int64, device=device)
    mask = torch.zeros_like(tokens)
    read, sampled = _ranges(start, prompts), _ranges(start + prompts, inputs)
    tokens[_on(device, read)] = token[_on(device, _ranges(where[:, 0], prompts))].long()
    tokens[_on(device, sampled)] = action[_on(device, _ranges(_before(steps), inputs))].long()
    mask[_on(device, np.concatenate([read, sampled]))] = 1
    predicts = _ranges(start + prompts - 1, steps)
    shape = (len(steps), longest)
    return Rows(tokens.view(shape), mask.view(shape), _on(device, predicts))


def _blocks(parts: _Parts, total: int, device: torch.device) -> tuple[tuple[Block, ...], Tensor]:
    """Short groups whole; of others prompts and completions of about the same length together; and
    `Packed.order`."""
    short = (np.bincount(parts.group, parts.size) <= _SHORT)[parts.group]
    made = [_whole(parts.of(short), device)] if short.any() else []
    reach = np.ceil(np.log2(np.maximum(parts.before + parts.size, _SHORT))).astype(np.int64)
    kind = np.where(short | (parts.size == 0), -1, 2 * reach + (parts.before > 0))
    made += [_block(parts.of(kind == one), device) for one in np.unique(kind[kind >= 0])]
    order = np.empty(total, np.int64)
    rows = np.concatenate([rows for _, rows in made])
    order[rows] = np.arange(total)
    return tuple(block for block, _ in made), _on(device, order)


def _whole(parts: _Parts, device: torch.device) -> tuple[Block, Numbers]:
    """Groups as one block, and the rows that its real queries are: what looks is looked at."""
    prompt = parts.before == 0
    start = parts.start[prompt]  # a group's rows lie side by side, its prompt in front
    size = np.bincount(parts.group, parts.size).astype(np.int64)[parts.group[prompt]]
    part = np.zeros(int((start + size).max()), np.int64)
    """Of each row: 0 in a prompt."""
    part[_ranges(parts.start, parts.size)] = np.repeat(
        np.where(prompt, 0, np.arange(1, len(prompt) + 1)), parts.size
    )
    column = np.arange(int(size.max()))
    there = column < size[:, None]
    row = np.where(there, start[:, None] + column, 0)
    of = np.where(there, part[row], -1)
    mask = (of[:, None, :] == 0) | (of[:, None, :] == of[:, :, None])
    mask &= column <= column[:, None]
    rows, real = row.reshape(-1), np.flatnonzero(there)
    every, masked = _on(device, rows), torch.from_numpy(mask[:, None]).to(device)
    return Block(every, every, masked, _on(device, real)), rows[real]


def _block(parts: _Parts, device: torch.device) -> tuple[Block, Numbers]:
    """One block, and the rows that its real queries are."""
    count, longest = len(parts.size), int(parts.size.max())
    reach = int((parts.before + parts.size).max())
    column = np.arange(longest)
    query = np.where(column < parts.size[:, None], parts.start[:, None] + column, 0)
    real = np.flatnonzero(column < parts.size[:, None])
    # Keys end with the part's own rows, whatever is in front of them.
    own = np.arange(reach) - (reach - parts.size[:, None])
    read = own + parts.before[:, None]
    key = np.where(own >= 0, parts.start[:, None] + own, parts.prefix[:, None] + read)
    key = np.where(read >= 0, key, 0)
    mask = (read[:, None, :] >= 0) & (own[:, None, :] <= column[None, :, None])
    # A row that looks at nothing would be NaN: those that are padding look at themselves.
    mask |= (column >= parts.size[:, None])[:, :, None] & (own == 0)[:, None, :]
    rows = query.reshape(-1)[real]
    block = Block(
        _on(device, query.reshape(-1)),
        _on(device, key.reshape(-1)),
        torch.from_numpy(mask.reshape(count, 1, longest, reach)).to(device),
        _on(device, real),
    )
    return block, rows


def _segments(parts: _Parts, device: torch.device) -> Segments:
    """Parts in the order of their rows, so that queries need no gathering."""
    order = np.argsort(parts.start, kind="stable")
    held = _Parts(*(column[order][parts.size[order] > 0] for column in parts))
    keys = held.before + held.size
    both = np.stack([held.prefix, held.start], 1).reshape(-1)
    sizes = np.stack([held.before, held.size], 1).reshape(-1)
    return Segments(
        _on(device, _ranges(both, sizes)),
        _on(device, np.concatenate([[0], np.cumsum(held.size)]).astype(np.int32)),
        _on(device, np.concatenate([[0], np.cumsum(keys)]).astype(np.int32)),
        int(held.size.max()),
        int(keys.max()),
    )


def _ranges(start: Numbers, size: Numbers) -> Numbers:
    """start, start + 1, ..., start + size - 1, for each, one after the other."""
    shift = start - _before(size)
    count: Numbers = np.repeat(shift, size) + np.arange(int(size.sum()))
    return count


def _before(size: Numbers) -> Numbers:
    """How much comes before each."""
    ends: Numbers = np.cumsum(size) - size
    return ends


def _on(device: torch.device, numbers: NDArray[np.integer]) -> Tensor:
    return torch.from_numpy(numbers).to(device)
