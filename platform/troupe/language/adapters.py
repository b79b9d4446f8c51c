"""LoRA adapters by the names that peft gives their tensors, merged into the weights they adapt."""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from troupe.errors import TroupeError

_NAME = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<part>[AB])(?:\.\w+)?\.weight")


def merged(
    base: Mapping[str, Tensor], adapter: Mapping[str, Tensor], scale: float
) -> Iterator[tuple[str, Tensor]]:
    """Each adapted weight, W + scale * B A (Hu et al., 2021, arXiv:2106.09685), in W's precision.

    Args:
        base: the model's own tensors by name.
        adapter: float tensors `LAYER.lora_A.weight` [rank, inputs] and `LAYER.lora_B.weight`
            [outputs, rank], with or without peft's `base_model.model.` and an adapter's name.
        scale: alpha / rank, or alpha / sqrt(rank) where the adapter was trained so.

    Raises:
        TroupeError: the tensors are not pairs, or not of this model.
    """
    for layer, (down, up) in _pairs(adapter).items():
        name = f"{layer}.weight"
        weight = base.get(name)
        if weight is None or weight.shape != (up.shape[0], down.shape[1]):
            raise TroupeError(
                f"weights: the adapter of {layer} is [{up.shape[0]}, {down.shape[1]}], this model has "
                f"{'none' if weight is None else list(weight.shape)}: it is another model's adapter"
            )
        product = up.to(weight.device).float() @ down.to(weight.device).float()
        yield name, (weight.float() + scale * product).to(weight.dtype)


def _pairs(adapter: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by layer."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise TroupeError(f"weights: {name} is no tensor of a LoRA adapter")
        parts.setdefault(match["layer"], {})[match["part"]] = tensor
    for layer, pair in parts.items():
        if pair.keys() != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise TroupeError(f"weights: the adapter of {layer} is not a pair of one rank")
    return {layer: (pair["A"], pair["B"]) for layer, pair in parts.items()}
