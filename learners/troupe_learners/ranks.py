"""Learners that share every update: what they have to tell one another.

Every rank calls the same methods in the same order; each call waits for all of them.
"""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """All ranks of one learner, as one of them sees them; without arguments, the only one.

    Args:
        rank: this one, from 0.
        size: how many there are.
        device: where what they add up lies: NCCL adds on GPUs, gloo in host memory.
        address: where they meet, `tcp://host:port` of the first one.
        patience: seconds to wait for the others before they are given up.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        device: torch.device | None = None,
        address: str = "",
        patience: float = 600.0,
    ) -> None:
        self.rank = rank
        self.size = size
        self._device = device or torch.device("cpu")
        if size > 1:
            dist.init_process_group(
                "nccl" if self._device.type == "cuda" else "gloo",
                init_method=address,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=patience),
            )

    def close(self) -> None:
        """Part from the others."""
        if self.size > 1:
            dist.destroy_process_group()

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, [..] to [..]; the same to the bit on each."""
        if self.size == 1:
            return tensor
        total = tensor.detach().to(self._device, copy=True).contiguous()
        dist.all_reduce(total)
        return total.to(tensor.device)

    def add_up_gradient(self, gradient: Tensor) -> None:
        """Add the gradients of all ranks, in place: each is of its share of one loss."""
        if self.size > 1:
            dist.all_reduce(gradient)

    def total(self, count: int) -> int:
        """The sum of a number over all ranks."""
        return count if self.size == 1 else int(self.add_up(torch.tensor(count)))

    def least(self, count: int) -> int:
        """The smallest of the ranks' numbers."""
        if self.size == 1:
            return count
        number = torch.tensor(count, device=self._device)
        dist.all_reduce(number, dist.ReduceOp.MIN)
        return int(number)

    def share(self, count: int) -> int:
        """How many of `count` equal things are this rank's."""
        return (count + self.size - 1 - self.rank) // self.size
