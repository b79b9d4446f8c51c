"""Running moments of what a policy sees, part of its weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

LIMIT = 10.0
"""Normalised numbers are clipped to +- this."""
_EPS = 1e-8


class Moments(nn.Module):
    """Count, mean and summed squared deviations of rows of numbers, in float64.

    Merged by the rule of Chan, Golub and LeVeque (1979), so that any split of the same rows into
    batches, in any order, gives the same but for rounding. Nothing here has a gradient.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))

    @torch.no_grad()
    def observe(self, values: Tensor, add_up: Callable[[Tensor], Tensor]) -> None:
        """Merge S rows [S, size], in place; `add_up` sums a tensor over all ranks."""
        values = values.double()
        count = add_up(torch.tensor(float(len(values)), dtype=torch.float64, device=values.device))
        mean = add_up(values.sum(0)) / count.clamp(min=1.0)
        squares = add_up((values - mean).square().sum(0))
        share = count / (self.count + count).clamp(min=1.0)
        apart = mean - self.mean
        self.squares += squares + apart.square() * self.count * share
        self.mean += apart * share
        self.count += count

    def mean_and_deviation(self) -> tuple[Tensor, Tensor]:
        """float32 [size] each; 0 and 1 before anything was observed."""
        variance = self.squares / self.count.clamp(min=1.0) + _EPS
        deviation = torch.where(self.count > 0, variance, 1.0).sqrt()
        return self.mean.float(), deviation.float()

    def normalise(self, values: Tensor) -> Tensor:
        """float32 [S, size] with mean 0 and deviation 1, clipped to +- `LIMIT`."""
        mean, deviation = self.mean_and_deviation()
        return ((values - mean) / deviation).clamp(-LIMIT, LIMIT)
