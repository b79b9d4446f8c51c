"""Adapters of low rank on a language model, by peft."""

from contextlib import AbstractContextManager
from typing import Protocol, cast

from torch import nn

from troupe.episodes import Columns
from troupe.errors import UserError
from troupe.language.settings import LoraSettings

_MODEL = "model."
"""How the weights of a language policy's model begin, among those of critics and values."""
_TARGETS = "network.language.lora.targets"
_ALL = "all-linear"
_ADAPTER = ".default."
"""peft names adapters within a model, and leaves the name out of files."""


class Adapted(Protocol):
    """A model with adapters."""

    def disable_adapter(self) -> AbstractContextManager[None]:
        """Within this, the model is what it was without them."""
        ...


def adapted(model: nn.Module, settings: LoraSettings) -> nn.Module:
    """The model with an adapter in each of its target layers, in place; all else is frozen.

    It does what the model did, until it is trained.

    Raises:
        UserError: peft is not installed, or the targets match no layer.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise UserError(
            f"network.language.lora: needs the package {error.name}; pip install 'troupe[text]'"
        ) from None
    wanted = _ALL if settings.targets == (_ALL,) else list(settings.targets)
    options = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a number is enough
        target_modules=wanted,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    try:
        return cast(nn.Module, get_peft_model(model, options))
    except ValueError:
        layers = sorted(
            {n.rpartition(".")[2] for n, m in model.named_modules() if type(m) is nn.Linear}
        )
        raise UserError(
            f"{_TARGETS}: {', '.join(settings.targets)}: the model has no such layer; it has "
            f"{', '.join(layers)}"
        ) from None


def published(weights: Columns) -> Columns:
    """Of a language policy's weights those that engines take, by the names of transformers or peft."""
    return {
        name.removeprefix(_MODEL).replace(_ADAPTER, "."): tensor
        for name, tensor in weights.items()
        if name.startswith(_MODEL)
    }
