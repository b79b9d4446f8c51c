"""Log-probabilities and entropies of tokens, without the logits of all tokens at once.

Logits are computed in chunks of tokens, and again in the backward pass, which is written by hand:
between the two only one number a token is kept, the logarithm of the sum. Whole logits of 4,096
tokens and 32,000 words, with their gradients, are one and a half GB.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_LOGITS = 2**24
"""At once, unless the caller says how many tokens: 64 MiB of float32. The gradient of the weights is
gone through once for each chunk, so that smaller ones take longer."""


class Head(NamedTuple):
    """The last layer of a language model."""

    weight: Tensor
    """float [V, width]."""
    bias: Tensor | None = None
    """float [V]."""
    scale: float = 1.0
    """What logits are multiplied by: one over the temperature."""


def token_log_probs(
    hidden: Tensor, head: Head, token: Tensor, *, entropy: bool = False, chunk: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """log softmax(scale (hidden W^T + b)) of the tokens taken, and the entropy of each distribution.

    Products are in autocast's precision, softmax and sums in float32.

    Args:
        hidden: float [S, width], differentiable.
        head: whose weight and bias are differentiable.
        token: int [S].
        entropy: whether it is wanted; it costs another pass over the logits.
        chunk: tokens whose logits are there at once.

    Returns:
        float32 [S] each; none for an entropy that is not wanted.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    chunk = chunk or max(1, _LOGITS // len(head.weight))
    log_prob, given = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, token.long(), head.scale, entropy, chunk
    )
    return log_prob, given if entropy else None


class _Context(Protocol):
    """What autograd keeps from the forward pass to the backward pass."""

    saved_tensors: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]
    needs_input_grad: tuple[bool, ...]
    scale: float
    chunk: int

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...
    def set_materialize_grads(self, value: bool) -> None: ...


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token: Tensor,
        scale: float,
        wanted: bool,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        size = hidden.shape[0]
        log_sum = torch.empty(size, dtype=torch.float32, device=hidden.device)
        log_prob, entropy = torch.empty_like(log_sum), torch.zeros_like(log_sum)
        like = weight.to(hidden.dtype)
        for part in _parts(size, chunk):
            logits = _logits(hidden[part], like, bias, scale)
            picked = logits.gather(1, token[part].unsqueeze(1)).squeeze(1)
            most = logits.amax(1, keepdim=True)
            shifted = logits.sub_(most)
            if wanted:
                share = shifted.exp()
                total = share.sum(1)
                mean = torch.linalg.vecdot(share, shifted) / total
                entropy[part] = total.log() - mean
            else:
                total = shifted.exp_().sum(1)
            log_sum[part] = total.log() + most.squeeze(1)
            log_prob[part] = picked - log_sum[part]
        ctx.save_for_backward(hidden, weight, bias, token, log_sum, entropy)
        ctx.scale, ctx.chunk = scale, chunk
        ctx.set_materialize_grads(False)
        return log_prob, entropy

    @staticmethod
    def backward(
        ctx: _Context, by_log_prob: Tensor | None, by_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """By logit z: p - onehot times the one's gradient, p (log p + H) times the other's, less."""
        hidden, weight, bias, token, log_sum, entropy = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        if by_log_prob is None:
            by_log_prob = torch.zeros_like(log_sum)
        by_hidden = torch.empty_like(hidden) if wants_hidden else None
        by_weight = _sum_like(weight) if wants_weight else None
        by_bias = _sum_like(bias) if wants_bias and bias is not None else None
        like = weight.to(hidden.dtype)
        for part in _parts(len(token), ctx.chunk):
            logits = _logits(hidden[part], like, bias, ctx.scale)
            log = logits.sub_(log_sum[part].unsqueeze(1))
            rate = by_log_prob[part].unsqueeze(1)
            if by_entropy is None:
                gradient = log.exp_().mul_(-rate)
            else:
                share = log.exp()
                log.add_(entropy[part].unsqueeze(1)).mul_(by_entropy[part].unsqueeze(1)).add_(rate)
                gradient = share.mul_(log).neg_()
            gradient.scatter_add_(1, token[part].unsqueeze(1), rate)
            gradient = gradient.mul_(ctx.scale).to(hidden.dtype)
            if by_hidden is not None:
                torch.mm(gradient, like, out=by_hidden[part])
            if by_weight is not None:
                _add_product(by_weight, gradient.T, hidden[part])
            if by_bias is not None:
                by_bias += gradient.sum(0)
        return by_hidden, by_weight, by_bias, None, None, None, None


def _sum_like(parameter: Tensor) -> Tensor:
    """Zeros to add many chunks to: in float32, also where the parameter is not."""
    return torch.zeros_like(parameter, dtype=torch.float32)


def _parts(size: int, chunk: int) -> Iterator[slice]:
    return (slice(start, start + chunk) for start in range(0, size, chunk))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """float32, a tensor of its own."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = F.linear(hidden, weight, None if bias is None else bias.to(weight.dtype)).float()
    return logits if scale == 1.0 else logits.mul_(scale)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
