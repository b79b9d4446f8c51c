"""Layers of a network that only acts: their weights laid out once, for the fastest kernel there is.

On a CPU these are oneDNN's kernels, which PyTorch keeps for compiled models: weights are reordered
once instead of at every call, and float32 is not left to MKL, which is half as fast on AMD
processors. Elsewhere they are PyTorch's own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_onednn = torch.ops.mkldnn
_AVAILABLE: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_LSTM = 2
"""The number of PyTorch's kind of recurrent layer."""


class Linear:
    """x W^T + b, with what may follow done in the same pass."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._fused = _fits(weight)
        weight = weight.contiguous()
        self._weight = _onednn._reorder_linear_weight(weight) if self._fused else weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(x, "none")

    def relu(self, x: Tensor) -> Tensor:
        """max(x W^T + b, 0)."""
        return self._apply(x, "relu")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x W^T + b + other."""
        if self._fused:
            out: Tensor = _onednn._linear_pointwise.binary(
                x, other, self._weight, self._bias, "add"
            )
            return out
        return F.linear(x, self._weight, self._bias).add_(other)

    def _apply(self, x: Tensor, then: str) -> Tensor:
        if self._fused:
            out: Tensor = _onednn._linear_pointwise(x, self._weight, self._bias, then, [], "")
            return out
        out = F.linear(x, self._weight, self._bias)
        return out.relu_() if then == "relu" else out


class Memory:
    """The output of a one-layer LSTM after the last of T steps, from a zero state."""

    def __init__(self, lstm: nn.LSTM, steps: int) -> None:
        self._lstm = lstm
        weights: list[Tensor] = list(lstm.all_weights[0])
        self._fused = _fits(weights[0])
        if self._fused:
            # The size of the batch, 64, only guides the choice of a layout.
            shape = [steps, 64, lstm.input_size]
            weights[:2] = _onednn._reorder_mkldnn_rnn_layer_weight(
                weights[0], weights[1], lstm.hidden_size, False, True, False, shape
            )
            self._weights = weights

    def __call__(self, x: Tensor) -> Tensor:
        """[T, S, inputs] -> [S, hidden]."""
        if not self._fused:
            return self._lstm(x.transpose(0, 1))[0][:, -1]  # type: ignore[no-any-return]
        hidden = self._lstm.hidden_size
        zero = x.new_zeros(x.shape[1], hidden)
        outputs, *_ = torch.ops.aten.mkldnn_rnn_layer(
            x,
            *self._weights,
            zero,
            zero,
            reverse=False,
            batch_sizes=[],
            mode=_LSTM,
            hidden_size=hidden,
            num_layers=1,
            has_biases=True,
            bidirectional=False,
            batch_first=False,
            train=False,
        )
        last: Tensor = outputs[-1]
        return last


def _fits(weight: Tensor) -> bool:
    if not _AVAILABLE or weight.device.type != "cpu":
        return False
    return weight.dtype == torch.float32 or bool(_onednn._is_mkldnn_bf16_supported())
