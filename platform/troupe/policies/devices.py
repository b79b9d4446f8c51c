"""Where tensors live and how finely they are multiplied: what `auto` means, and what cannot be."""

from pathlib import Path

import torch

from troupe.errors import UserError

CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What Linux calls native bfloat16 products on x86 and on ARM."""
FIRST_CUDA_WITH_BF16 = 8
"""Major compute capability (Ampere)."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(setting: str, *, prefer_gpu: bool = True) -> torch.device:
    """The device meant by `auto`, `cpu`, `cuda` or `cuda:N`."""
    if setting == "auto":
        setting = "cuda" if prefer_gpu and torch.cuda.is_available() else "cpu"
    return torch.device(setting)


def resolve_precision(setting: str, device: torch.device) -> torch.dtype:
    """The dtype meant by `fp32`, `bf16`, `fp16` or `auto`: bf16 where it is native, else fp32."""
    if setting == "auto":
        setting = "bf16" if multiplies_bf16(device) else "fp32"
    return _DTYPES[setting]


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively, rather than by way of float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= FIRST_CUDA_WITH_BF16
    return not CPU_FLAGS.isdisjoint(_cpu_flags())


def check(device: str, precision: str, key: str) -> None:
    """See that this machine can do what the settings under `key` ask for.

    Raises:
        UserError: there is no such GPU, or the device cannot multiply at that precision.
    """
    if device.startswith("cuda"):
        present = torch.cuda.device_count()
        wanted = int(device.partition(":")[2] or 0)
        if wanted >= present:
            raise UserError(
                f"{key}.device: {device!r} asks for a GPU, PyTorch sees {present} here; use auto or cpu"
            )
    resolved = resolve_device(device, prefer_gpu=key == "learner")
    if precision == "fp16" and resolved.type == "cpu":
        raise UserError(f"{key}.precision: 'fp16' needs a GPU; on a CPU use auto, bf16 or fp32")


def check_ranks(device: str, ranks: int) -> None:
    """See that every rank of a learner can have a device of its own, or all of them the CPU.

    Raises:
        UserError: there are too few GPUs, or one is named that all would share.
    """
    if resolve_device(device).type == "cpu":
        return
    present = torch.cuda.device_count()
    if present < ranks or ":" in device:
        raise UserError(
            f"learner.count: {ranks} ranks need a GPU each, with learner.device: {device!r} and "
            f"{present} here; use fewer ranks, or learner.device: cpu, or cuda where there are enough"
        )


def check_sharding(precision: str) -> None:
    """See that a model can be divided among ranks.

    Raises:
        UserError: PyTorch is too old for it, or a loss would have to be scaled.
    """
    from torch.distributed import fsdp  # takes a while

    if not hasattr(getattr(fsdp, "FSDPModule", None), "set_force_sum_reduction_for_comms"):
        raise UserError(
            f"learner.sharding: full needs a newer PyTorch than {torch.__version__}; "
            "pip install --upgrade torch, or leave it out"
        )
    if precision == "fp16":
        raise UserError(
            "learner.precision: fp16 scales its loss, which learner.sharding: full does not; take bf16"
        )


def _cpu_flags() -> frozenset[str]:
    """What Linux says the processor can do; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    lines = (line.partition(":") for line in info.read_text().splitlines())
    flags = next((text for name, _, text in lines if name.strip() in ("flags", "Features")), "")
    return frozenset(flags.split())
