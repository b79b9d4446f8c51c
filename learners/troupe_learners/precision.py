"""Mixed precision: the forward pass in bf16 or fp16, weights and their update in fp32."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from troupe_learners.optim import Optimizer


class Precision:
    """How finely a device multiplies, and what that needs around the backward pass.

    fp16 gradients underflow without loss scaling (Micikevicius et al., 1710.03740); a step whose
    scaled gradient overflowed is skipped and the scale halved.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device.type
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    @property
    def skips_overflow(self) -> bool:
        """Whether a gradient that is not finite does no harm."""
        return self._scaler.is_enabled()

    def autocast(self) -> AbstractContextManager[None]:
        """Within this, matrix products are computed in the chosen dtype."""
        if self._dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self._device, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those that are there."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: Optimizer, max_grad_norm: float | None) -> Tensor:
        """Clip the gradient and step; the norm before clipping, a scalar on the device."""
        if not self._scaler.is_enabled():
            norm = optimizer.clip_grad_norm(max_grad_norm)
            optimizer.step()
            return norm
        self._scaler.unscale_(optimizer.torch_optimizer)
        norm = optimizer.clip_grad_norm(max_grad_norm)
        self._scaler.step(optimizer.torch_optimizer)
        self._scaler.update()
        return norm

    def state(self) -> dict[str, float]:
        """The loss scale and how long it held; nothing without scaling."""
        return {name: float(value) for name, value in self._scaler.state_dict().items()}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take what `state` gave."""
        if state and self._scaler.is_enabled():
            whole = ("growth_interval", "_growth_tracker")
            self._scaler.load_state_dict(
                {name: int(v) if name in whole else v for name, v in state.items()}
            )
