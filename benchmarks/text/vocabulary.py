"""Log-softmax and its gradients, of all logits at once and as the learner computes it."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from troupe.policies.vocabulary import Head, token_log_probs

TOKENS, WORDS, WIDTH = 4096, 32_000, 512
ROUNDS = 3


class Cost(NamedTuple):
    """What one pass forward and back took."""

    bytes: int
    """The most memory above what was there before it."""
    seconds: float


def measure(kind: str) -> Cost:
    """Of `whole` or `chunked`, in a process that has done nothing else; medians."""
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(WORDS, WIDTH, generator=random).div_(WIDTH**0.5).requires_grad_()
    hidden = torch.randn(TOKENS, WIDTH, generator=random).requires_grad_()
    token = torch.randint(WORDS, (TOKENS,), generator=random)
    # Gradients are there before: the learner's lie in its optimizer.
    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)
    compute = {"whole": _whole, "chunked": _chunked}[kind]
    _pass(compute, hidden[:64], weight, token[:64])  # what libraries set up for themselves
    costs = [_cost(lambda: _pass(compute, hidden, weight, token)) for _ in range(ROUNDS)]
    return Cost(*(statistics.median(figures) for figures in zip(*costs, strict=True)))


def _whole(hidden: Tensor, weight: Tensor, token: Tensor) -> Tensor:
    logits = F.linear(hidden, weight)
    return logits.log_softmax(1).gather(1, token.unsqueeze(1)).squeeze(1)


def _chunked(hidden: Tensor, weight: Tensor, token: Tensor) -> Tensor:
    log_prob, _ = token_log_probs(hidden, Head(weight), token)
    return log_prob


def _pass(
    compute: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden: Tensor,
    weight: Tensor,
    token: Tensor,
) -> None:
    (-compute(hidden, weight, token).mean()).backward()


def _cost(work: Callable[[], None]) -> Cost:
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the highest mark
    before, begun = _status("VmRSS"), time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    return Cost(_status("VmHWM") - before, seconds)


def _status(name: str) -> int:
    """Bytes, as the kernel has them for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
