"""A decoder for Llama-shaped models: our own forward over flat weights and a cache that is laid out once.

The cache of a row is copied when a row behind it takes its place, so that the rows that run are
always the first ones, and every layer reads them as one view.
"""

from collections.abc import Collection, Sequence
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from troupe.episodes import Columns
from troupe_actors.engines._arrivals import Arrivals
from troupe_actors.engines.tiny.decoding import Tokens
from troupe_actors.engines.tiny.llama_weights import Layer, LlamaWeights, Shape

READ_AT_ONCE = 16_384
"""Tokens, padding included: bounds the memory of reading prompts."""
ROUND_BF16 = 32
# oneDNN keeps code for every shape it meets, so on a CPU in bfloat16 lengths are rounded up to few.


class LlamaDecoder:
    """`Decoder` with rows of up to `capacity` tokens. What a text leaves: [layers, 2, kv_heads, P, width]."""

    def __init__(
        self,
        weights: LlamaWeights,
        shape: Shape,
        rotation: Tensor,
        arrivals: Arrivals,
        slots: int,
    ) -> None:
        """
        Args:
            rotation: complex64 [capacity, width / 2]: by what heads are turned at each position.
        """
        self._weights = weights
        self._shape = shape
        self._rotation = rotation
        self._arrivals = arrivals
        self._device, self._dtype = weights.embedding.device, weights.embedding.dtype
        # An odd number, because rows a power of two apart would share few lines of a CPU's cache.
        capacity, kv = len(rotation) | 1, shape.kv_heads
        # Zero, because what is masked is still multiplied.
        size = (shape.layers, 2, slots, kv, capacity, shape.width)
        self._cache = torch.zeros(size, device=self._device, dtype=self._dtype)
        """Keys, then values."""
        cells = torch.arange(2 * slots * kv, device=self._device).view(2, slots, kv) * capacity
        self._cells = cells.transpose(0, 1).reshape(slots, 2 * kv)
        """[slots, keys then values]: the first cell of each head."""
        self._length = np.zeros(slots, np.int64)
        self._rows = 0
        on_cpu = self._device.type == "cpu"
        self._round = ROUND_BF16 if on_cpu and self._dtype == torch.bfloat16 else 1
        self._nothing = torch.zeros((1, 1, 1), device=self._device, dtype=self._dtype)

    def read(self, texts: Sequence[Tokens]) -> list[Tensor]:
        """See `Decoder`."""
        left: dict[int, Tensor] = {}
        batch: list[int] = []
        for index in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
            if batch and (len(batch) + 1) * len(texts[batch[0]]) > READ_AT_ONCE:
                left.update(zip(batch, self._read([texts[i] for i in batch]), strict=True))
                batch = []
            batch.append(index)
        left.update(zip(batch, self._read([texts[i] for i in batch]), strict=True))
        return [left[index] for index in range(len(texts))]

    def admit(self, texts: Sequence[Tensor]) -> None:
        """See `Decoder`."""
        for _, alike in groupby(texts, key=id):
            same = list(alike)
            length, rows = same[0].shape[3], slice(self._rows, self._rows + len(same))
            self._cache[:, :, rows, :, :length] = same[0].unsqueeze(2)
            self._length[rows] = length
            self._rows += len(same)

    def keep(self, going: NDArray[np.bool_]) -> NDArray[np.int64]:
        """See `Decoder`. The last rows move to where others have left."""
        count = int(going.sum())
        order = np.arange(count)
        holes = np.flatnonzero(~going[:count])
        if len(holes):
            movers = np.flatnonzero(going[count:]) + count
            order[holes] = movers
            span = int(self._length[movers].max())
            to, of = (torch.from_numpy(i).to(self._device) for i in (holes, movers))
            self._cache[:, :, to, :, :span] = self._cache[:, :, of, :, :span]
            self._length[holes] = self._length[movers]
        self._rows = count
        return order

    def step(self, tokens: NDArray[np.int64]) -> Tensor:
        """See `Decoder`."""
        rows, shape, weights = self._rows, self._shape, self._weights
        lengths = self._length[:rows]
        longest = int(lengths.max()) + 1
        span = min(-(-longest // self._round) * self._round, self._cache.shape[4])
        length = torch.from_numpy(lengths).to(self._device)
        rotation = self._rotation[length].unsqueeze(1)
        cells = (self._cells[:rows] + length.unsqueeze(1)).view(-1)
        alike = span == longest and int(lengths.min()) + 1 == longest
        hidden = None if alike else self._hidden(length, span)

        x = F.embedding(torch.from_numpy(tokens).to(self._device), weights.embedding)
        for layer, cache in zip(weights.layers, self._cache.unbind(), strict=True):
            y = F.rms_norm(x, x.shape[1:], layer.before, shape.epsilon)
            heads = F.linear(y, layer.qkv, layer.qkv_bias).view(rows, shape.all_heads, -1)
            self._turn(layer, heads, rotation)
            new = heads[:, shape.heads :].reshape(-1, shape.width)
            cache.view(-1, shape.width).index_copy_(0, cells, new)
            x = x + self._attended(layer, heads, cache[:, :rows, :, :span], hidden)
            x = x + self._fed(layer, x)
        self._length[:rows] += 1
        x = F.rms_norm(x, x.shape[1:], weights.norm, shape.epsilon)
        return F.linear(x, weights.head).float()

    def load(self, tensors: Columns, bfloat16: Collection[str]) -> None:
        """See `Decoder`."""
        for name, tensor in self._arrivals.taken(tensors, bfloat16):
            self._weights.places[name].put(tensor)

    def _read(self, texts: Sequence[Tokens]) -> list[Tensor]:
        """The same for texts that are read at once: padded behind, which causality hides."""
        shape, span = self._shape, len(texts[0])
        tokens = np.zeros((len(texts), span), np.int64)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = text
        size = (shape.layers, 2, len(texts), shape.kv_heads, span, shape.width)
        left = torch.empty(size, device=self._device, dtype=self._dtype)
        if span:
            self._run(torch.from_numpy(tokens).to(self._device), left)
        return [left[:, :, i, :, : len(text)] for i, text in enumerate(texts)]

    def _run(self, tokens: Tensor, left: Tensor) -> None:
        """Read texts [B, span]; of the last layer no more than its keys and values is needed."""
        shape, rotation = self._shape, self._rotation[: tokens.shape[1]].unsqueeze(1)
        x = F.embedding(tokens, self._weights.embedding)
        for i, (layer, cache) in enumerate(zip(self._weights.layers, left.unbind(), strict=True)):
            y = F.rms_norm(x, x.shape[2:], layer.before, shape.epsilon)
            heads = F.linear(y, layer.qkv, layer.qkv_bias).view(*tokens.shape, shape.all_heads, -1)
            self._turn(layer, heads, rotation)
            q, k, v = heads.transpose(1, 2).tensor_split([shape.heads, shape.turned], 1)
            cache[0], cache[1] = k, v
            if i + 1 == shape.layers:
                return
            shared = shape.heads != shape.kv_heads
            read = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared)
            read = read.transpose(1, 2).flatten(2)
            x = x + F.linear(read, layer.output, layer.output_bias)
            x = x + self._fed(layer, x)

    def _turn(self, layer: Layer, heads: Tensor, rotation: Tensor) -> None:
        """Norm queries and keys of [..., heads, width] if the model does, and turn them, in place."""
        turned = heads[..., : self._shape.turned, :]
        if layer.norms is not None:
            turned.copy_(F.rms_norm(turned, turned.shape[-1:], None, self._shape.epsilon))
            turned.mul_(layer.norms)
        if heads.dtype == torch.float32:
            torch.view_as_complex(turned.view(*turned.shape[:-1], -1, 2)).mul_(rotation)
        else:
            pairs = torch.view_as_complex(turned.float().view(*turned.shape[:-1], -1, 2))
            turned.copy_(torch.view_as_real(pairs * rotation).flatten(-2))

    def _attended(
        self, layer: Layer, heads: Tensor, cache: Tensor, hidden: Tensor | None
    ) -> Tensor:
        """What one query in each row reads: [rows, hidden], of `cache` [2, rows, kv_heads, span, width].

        For a single query, batched products beat the attention that PyTorch brings for CPUs.
        """
        shape = self._shape
        keys, values = cache.flatten(1, 2).unbind()
        q = heads[:, : shape.heads].reshape(len(keys), -1, shape.width)
        bias, beta = (self._nothing, 0) if hidden is None else (hidden, 1)
        scale = shape.width**-0.5
        scores = torch.baddbmm(bias, q, keys.transpose(1, 2), beta=beta, alpha=scale)
        read = torch.bmm(torch.softmax(scores, 2), values)
        return F.linear(read.view(len(heads), -1), layer.output, layer.output_bias)

    def _fed(self, layer: Layer, x: Tensor) -> Tensor:
        """The second half of a layer, of any [..., hidden]."""
        y = F.rms_norm(x, x.shape[-1:], layer.between, self._shape.epsilon)
        gate, up = F.linear(y, layer.gate_up, layer.gate_up_bias).chunk(2, -1)
        return F.linear(F.silu(gate).mul_(up), layer.down, layer.down_bias)

    def _hidden(self, length: Tensor, span: int) -> Tensor:
        """[rows * kv_heads, 1, span]: -inf where a row has not been yet."""
        later = torch.arange(span, device=self._device) > length.unsqueeze(1)
        bias = torch.zeros(later.shape, device=self._device, dtype=self._dtype)
        bias.masked_fill_(later, -torch.inf)
        return bias.repeat_interleave(self._shape.kv_heads, 0).unsqueeze(1)
