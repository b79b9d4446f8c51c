"""Images as features: the convolutions of Mnih et al., Nature, 2015."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 36
"""Pixels of the shorter side, below which nothing is left after the last convolution."""


class Convolutions(nn.Module):
    """32 of 8x8, 64 of 4x4 and 64 of 3x3 filters, then a layer of 512, all rectified."""

    width = 512

    def __init__(self, shape: Sequence[int]) -> None:
        """`shape` is [height, width, channels] or [channels, height, width]: channels are fewest."""
        super().__init__()
        self._channels_last = shape[2] < shape[0]
        channels, *size = (shape[2], *shape[:2]) if self._channels_last else shape
        self.convolutions = nn.ModuleList(
            (
                nn.Conv2d(channels, 32, 8, 4),
                nn.Conv2d(32, 64, 4, 2),
                nn.Conv2d(64, 64, 3, 1),
            )
        )
        with torch.no_grad():
            left = self._convolve(torch.zeros(1, channels, *size)).numel()
        self.linear = nn.Linear(left, self.width)

    def encode(self, images: Tensor) -> Tensor:
        """float [S, *shape] in [0, 1] -> [S, 512]."""
        x = images.permute(0, 3, 1, 2) if self._channels_last else images
        return F.relu(self.linear(self._convolve(x)))

    def _convolve(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return x.flatten(1)
