"""Attention over packed groups (`packing`), as transformers calls it for any of its models.

On a GPU in half precision it is FlashAttention over sequences of any length (Dao, 2023,
arXiv:2307.08691), elsewhere PyTorch's own with a mask.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from troupe.policies.packing import Block, Packed

NAME = "troupe_packed"
"""By which transformers knows it."""

_HALF = (torch.float16, torch.bfloat16)


def register() -> None:
    """Make it known to transformers; masks are then none of that one's business."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)


def varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device computes attention over sequences of any length in this precision."""
    if device.type != "cuda" or dtype not in _HALF:
        return False
    try:
        from torch.nn.attention import varlen as _  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Packed,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: object,  # transformers passes on whatever a model has
) -> tuple[Tensor, None]:
    """float [1, T, heads, D] of queries [1, heads, T, D], keys and values [1, fewer heads, T, D]."""
    rows = [tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value)]
    if packed.segments is not None:
        mixed = _in_segments(rows, packed, scaling, sliding_window)
    else:
        mixed = _in_blocks(rows, packed, scaling, sliding_window)
    return mixed.to(value.dtype).unsqueeze(0), None


def _in_segments(
    rows: list[Tensor], packed: Packed, scale: float | None, window: int | None
) -> Tensor:
    """[T, heads, D] by one kernel; causal with the last query at the last key."""
    from torch.nn.attention.varlen import varlen_attn

    segments = packed.segments
    assert segments is not None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else rows[0].dtype
    query, key, value = (tensor.to(dtype) for tensor in rows)
    mixed = varlen_attn(
        query.contiguous(),
        key[segments.key],
        value[segments.key],
        segments.query_ends,
        segments.key_ends,
        segments.longest_query,
        segments.longest_key,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    assert isinstance(mixed, Tensor)
    return mixed


def _in_blocks(
    rows: list[Tensor], packed: Packed, scale: float | None, window: int | None
) -> Tensor:
    """[T, heads, D], block by block."""
    query, key, value = rows
    outputs = []
    for block in packed.blocks:
        count, _, longest, reach = block.mask.shape
        q = query[block.query].view(count, longest, *query.shape[1:]).transpose(1, 2)
        k, v = (
            tensor[block.key].view(count, reach, *tensor.shape[1:]).transpose(1, 2)
            for tensor in (key, value)
        )
        mask = block.mask
        if window is not None and reach > window:
            mask = mask & _near(block, packed, window)
        mixed = F.scaled_dot_product_attention(
            q, k, v, mask, scale=scale, enable_gqa=key.shape[1] != query.shape[1]
        )
        outputs.append(mixed.transpose(1, 2).flatten(0, 1)[block.real])
    assert packed.order is not None
    return torch.cat(outputs)[packed.order]


def _near(block: Block, packed: Packed, window: int) -> Tensor:
    """bool [B, 1, Q, K]: what is no further back than a sliding window reaches."""
    count, _, longest, reach = block.mask.shape
    query = packed.position[block.query].view(count, 1, longest, 1)
    return query - packed.position[block.key].view(count, 1, 1, reach) < window
