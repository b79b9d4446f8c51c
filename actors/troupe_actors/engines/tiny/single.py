"""Attention of a single query in each row, for models of transformers on a CPU.

Two batched products beat the kernel that PyTorch has for whole sequences, which is kept for those.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "troupe_single"
"""By which transformers knows it."""
_REPLACED = "sdpa"


def use(model: PreTrainedModel) -> None:
    """Have a model on a CPU attend this way, if it takes PyTorch's attention now."""
    if model.device.type == "cpu" and model.config._attn_implementation == _REPLACED:
        AttentionInterface.register(NAME, _attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **others: Any,  # transformers passes on whatever a model has
) -> tuple[Tensor, Tensor | None]:
    """float [B, Q, heads, D] of queries [B, heads, Q, D], keys and values [B, fewer heads, K, D]."""
    if query.shape[2] > 1 or position_bias is not None:
        whole: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            position_bias=position_bias,
            **others,
        )
        return whole
    batch, heads, _, width = query.shape
    fewer = key.shape[1]
    q = query.reshape(batch * fewer, heads // fewer, width)
    scores = torch.bmm(q, key.flatten(0, 1).transpose(1, 2))
    scores *= width**-0.5 if scaling is None else scaling
    scores = scores.view(batch, heads, 1, -1)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill_(~attention_mask, -torch.inf)
        else:
            scores = scores + attention_mask
    share = torch.softmax(scores, 3).view(batch * fewer, heads // fewer, -1)
    read = torch.bmm(share, value.flatten(0, 1))
    return read.view(batch, 1, heads, width), None
