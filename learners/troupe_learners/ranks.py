"""Learners that share every update: what they have to tell one another.

Every rank calls the same methods in the same order; each call waits for all of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from troupe.errors import TroupeError


class RankLostError(TroupeError):
    """Another rank has ended, or does not answer: nothing can be added up any more."""


class Ranks:
    """All ranks of one learner, as one of them sees them; without arguments, the only one.

    Args:
        rank: this one, from 0.
        size: how many there are.
        device: where what they add up lies: NCCL adds on GPUs, gloo in host memory.
        meeting: a file that all of them see and nobody else, where they find one another.
        arrival: seconds to wait for the others there.
        patience: seconds to wait for the others later, before they are given up.

    Raises:
        RankLostError: of any call: not all of them are there.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        device: torch.device | None = None,
        meeting: Path | None = None,
        arrival: float = 60.0,
        patience: float = 300.0,
    ) -> None:
        self.rank = rank
        self.size = size
        self._device = device or torch.device("cpu")
        self._host: dist.ProcessGroup | None = None
        """Adds up in host memory."""
        if size > 1:
            with _together():
                self._meet(str(meeting), timedelta(seconds=arrival), timedelta(seconds=patience))

    def _meet(self, file: str, arrival: timedelta, patience: timedelta) -> None:
        store = dist.FileStore(file, self.size)  # type: ignore[attr-defined]
        store.set_timeout(arrival)
        store.set(f"here-{self.rank}", "")
        store.wait([f"here-{rank}" for rank in range(self.size)])
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(self._device)  # where others than us begin to add up
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=patience
        )
        if backend == "nccl":
            self._host = dist.new_group(backend="gloo", timeout=patience)

    def close(self) -> None:
        """Part from the others."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks for all."""
        return self.rank == 0

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, [..] to [..]; the same to the bit on each."""
        if self.size == 1:
            return tensor
        total = tensor.detach().to(self._device, copy=True).contiguous()
        with _together():
            dist.all_reduce(total)
            return total.to(tensor.device)

    def add_up_gradient(self, gradient: Tensor) -> None:
        """Add the gradients of all ranks, in place: each is of its share of one loss."""
        if self.size > 1:
            with _together():
                dist.all_reduce(gradient)

    def total(self, count: int) -> int:
        """The sum of a number over all ranks."""
        return count if self.size == 1 else int(self.add_up(torch.tensor(count)))

    def least(self, count: int) -> int:
        """The smallest of the ranks' numbers."""
        return count if self.size == 1 else self._reduced(count, dist.ReduceOp.MIN)

    def most(self, count: int) -> int:
        """The largest of the ranks' numbers."""
        return count if self.size == 1 else self._reduced(count, dist.ReduceOp.MAX)

    def _reduced(self, count: int, operation: dist.ReduceOp.RedOpType) -> int:
        number = torch.tensor(count, device=self._device)
        with _together():
            dist.all_reduce(number, operation)
            return int(number)

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Each number summed over all ranks; exact where only one of them says other than 0."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        with _together():
            dist.all_reduce(total, group=self._host)
        return total.tolist()

    def gather(self, data: bytes) -> list[bytes]:
        """What every rank brings, in their order, for the first one; the others get nothing."""
        sizes = self.sums([float(len(data)) if r == self.rank else 0.0 for r in range(self.size)])
        if not self.first:
            if data:
                with _together():
                    dist.send(torch.from_numpy(np.frombuffer(data, np.uint8).copy()), 0, self._host)
            return []
        return [data, *(self._receive(rank, int(sizes[rank])) for rank in range(1, self.size))]

    def _receive(self, rank: int, size: int) -> bytes:
        data = torch.empty(size, dtype=torch.uint8)
        if size:
            with _together():
                dist.recv(data, rank, self._host)
        return data.numpy().tobytes()

    def collect(self, tensor: Tensor) -> list[Tensor]:
        """What every rank brings, in their order, of one shape, for the first one; others get nothing."""
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)] if self.first else None
        with _together():
            dist.gather(tensor, parts)
        return parts or []

    def share(self, count: int) -> int:
        """How many of `count` equal things are this rank's."""
        return (count + self.size - 1 - self.rank) // self.size


@contextmanager
def watched() -> Iterator[None]:
    """Say the same where others than `Ranks` add up, and other errors come out of that too."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        with _together():
            raise


@contextmanager
def _together() -> Iterator[None]:
    """Say in one line that the others are lost; how that is told depends on when it is noticed."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RankLostError(f"learner: another rank was lost: {reason[0]}") from error
