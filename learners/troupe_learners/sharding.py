"""A policy divided among ranks (FSDP2, `torch.distributed.fsdp.fully_shard`; Zhao et al., 2023,
arXiv:2304.11277).

Each rank keeps some rows of every parameter, of its gradient and of what its optimizer remembers. A
layer is whole only while it computes. What is saved or published is whole, and as `flat` has it:
nobody who reads it can tell how it was divided.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from troupe.episodes import Array
from troupe_learners.flat import buffers, check_weights
from troupe_learners.optim import (
    Optimizer,
    OptimizerSettings,
    anneal,
    check_state,
    create,
    put_state,
)
from troupe_learners.ranks import Ranks


@runtime_checkable
class Layered(Protocol):
    """A policy whose parts compute one after the other."""

    def layers(self) -> list[nn.Module]:
        """Those parts; what lies between them is whole for as long as the policy computes."""
        ...


def shard(module: nn.Module, device: torch.device, dtype: torch.dtype, ranks: Ranks) -> FSDPModule:
    """Divide a module among all ranks, in place; it goes to the device layer by layer.

    Args:
        module: `Layered`, in host memory, float32, the same on every rank; its `evaluate` is what will
            be called.
        device: this rank's.
        dtype: of layers while they compute; gradients are added up in float32.
        ranks: more than one.
    """
    assert isinstance(module, Layered)
    mesh = init_device_mesh(device.type, (ranks.size,))
    half = dtype != torch.float32
    precision = MixedPrecisionPolicy(dtype if half else None, torch.float32 if half else None)
    for layer in module.layers():
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(module, mesh=mesh, mp_policy=precision)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            # Every rank's loss has the denominators of all: gradients are added up, not averaged.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(module, "evaluate")
    return cast(FSDPModule, module)


class Shares:
    """`Exchange` of a divided module: gradients are added up as the last backward pass goes."""

    def __init__(self, module: FSDPModule, ranks: Ranks) -> None:
        self._module = module
        self._ranks = ranks

    def passes(self, count: int) -> int:
        """As often as any rank has to: every layer brings all of them together."""
        return self._ranks.most(count)

    def before(self, *, last: bool) -> None:
        """Gradients stay here, whole, until the last micro-batch."""
        self._module.set_requires_gradient_sync(last)

    def after(self, optimizer: Optimizer) -> None:
        """They are added up."""


class _Share(NamedTuple):
    """This rank's rows of one parameter."""

    parameter: nn.Parameter
    """A `DTensor`, whose gradient FSDP sets."""
    local: nn.Parameter
    """Its rows, in the same memory."""
    whole: torch.Size
    rows: slice

    @classmethod
    def of(cls, parameter: nn.Parameter, ranks: Ranks) -> "_Share":
        divided = parameter.detach()
        assert isinstance(divided, DTensor)
        local = nn.Parameter(divided.to_local())
        whole = parameter.shape
        start = min(ranks.rank * _most_rows(whole, ranks), whole[0])
        return cls(parameter, local, whole, slice(start, start + len(local)))

    def take(self, whole: Array) -> Tensor:
        """This rank's part of values for all of the parameter, in host memory, in any shape."""
        return torch.from_numpy(np.array(whole.reshape(self.whole)[self.rows]))

    def gathered(self, local: Tensor, ranks: Ranks) -> Array | None:
        """A copy of the whole, in host memory, of what every rank has some rows of; on the first rank."""
        padded = local.new_zeros((_most_rows(self.whole, ranks), *self.whole[1:]))
        padded[: len(local)] = local
        parts = ranks.collect(padded)
        if not parts:
            return None
        return _to_host(torch.cat(parts)[: self.whole[0]])


class ShardedModule:
    """The parameters of a divided module that are trained; see `FlatModule`.

    All ranks call its methods at the same time.
    """

    def __init__(self, module: nn.Module, ranks: Ranks) -> None:
        self._module = module
        self._ranks = ranks
        self._shares = {
            name: _Share.of(parameter, ranks)
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def weights(self) -> dict[str, Array]:
        """A copy of the whole module's tensors by name, in host memory, on the first rank.

        On a device there is never more than one of them whole.
        """
        held = {
            name: share.gathered(share.local.detach(), self._ranks)
            for name, share in self._shares.items()
        }
        whole = {name: tensor for name, tensor in held.items() if tensor is not None}
        if self._ranks.first:
            for name, tensor in buffers(self._module).items():
                whole[name] = tensor.to("cpu", copy=True).numpy()
        return whole

    def load_weights(self, tensors: Mapping[str, Array]) -> None:
        """Take the whole module's tensors, of which this rank keeps its share, or nothing at all.

        Raises:
            TroupeError: a tensor is missing, unknown or of another shape.
        """
        own = buffers(self._module)
        shapes = {name: tuple(share.whole) for name, share in self._shares.items()}
        check_weights(tensors, shapes | {n: tuple(t.shape) for n, t in own.items()})
        with torch.no_grad():
            for name, share in self._shares.items():
                share.local.copy_(share.take(tensors[name]))
            for name, tensor in own.items():
                tensor.copy_(torch.from_numpy(np.array(tensors[name])))


class ShardedOptimizer:
    """Steps this rank's rows of the parameters of a group. An `Optimizer`."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], settings: OptimizerSettings, ranks: Ranks
    ) -> None:
        self._shares = [_Share.of(parameter, ranks) for parameter in parameters]
        self._settings = settings
        self._ranks = ranks
        self.torch_optimizer = create([share.local for share in self._shares], settings)

    def zero_grad(self) -> None:
        """See `Optimizer`."""
        for share in self._shares:
            share.parameter.grad = share.local.grad = None

    def forget(self) -> None:
        """See `Optimizer`."""
        self.torch_optimizer.state.clear()

    def anneal(self, progress: float) -> None:
        """See `Optimizer`."""
        anneal(self.torch_optimizer, self._settings, progress)

    def clip_grad_norm(self, limit: float | None) -> Tensor:
        """See `Optimizer`; a parameter that the loss does not depend on has a gradient of 0."""
        norms = []
        for share in self._shares:
            grad = share.parameter.grad
            own = torch.zeros_like(share.local) if grad is None else cast(DTensor, grad).to_local()
            share.local.grad = own
            norms.append(torch.linalg.vector_norm(own))
        squares = torch.stack(norms).square().sum()
        norm = self._ranks.add_up(squares).sqrt()
        if limit is not None:
            factor = (norm / limit).clamp_(min=1.0)
            for share in self._shares:
                assert share.local.grad is not None
                share.local.grad.div_(factor)
        return norm

    def step(self) -> None:
        """See `Optimizer`."""
        self.torch_optimizer.step()

    def state(self) -> dict[str, Array]:
        """See `Optimizer`; the whole of it, on the first rank."""
        held = [self.torch_optimizer.state[share.local] for share in self._shares]
        state: dict[str, Array] = {}
        # In one order on all ranks: what was loaded from a file comes in any.
        for name, first in sorted(held[0].items()):
            if first.dim() == 0:  # one count for each parameter, and all alike
                state[name] = first.to("cpu", copy=True).numpy()
                continue
            parts = [
                share.gathered(of[name], self._ranks)
                for share, of in zip(self._shares, held, strict=True)
            ]
            if whole := [part.reshape(-1) for part in parts if part is not None]:
                state[name] = np.concatenate(whole)
        return state

    def load_state(self, tensors: Mapping[str, Array]) -> None:
        """See `Optimizer`; this rank keeps its share."""
        sizes = [share.whole.numel() for share in self._shares]
        check_state(tensors, self._settings, sum(sizes))
        ends = np.cumsum(sizes)[:-1]
        held: list[dict[str, Tensor]] = [{} for _ in sizes]
        for name, tensor in tensors.items():
            if tensor.ndim == 0:
                for of in held:
                    of[name] = torch.from_numpy(np.array(tensor))
                continue
            for share, of, part in zip(self._shares, held, np.split(tensor, ends), strict=True):
                of[name] = share.take(part)
        put_state(self.torch_optimizer, held if tensors else [])


def _most_rows(whole: torch.Size, ranks: Ranks) -> int:
    """How many rows of a parameter each rank has, but for the last ones."""
    return -(-whole[0] // ranks.size)


def _to_host(tensor: Tensor) -> Array:
    """A copy in host memory, by way of pinned memory where that is faster."""
    if tensor.device.type == "cpu":
        return tensor.numpy()
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    pinned.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return pinned.numpy().copy()
