"""The weights of a Llama-shaped model, laid out for few and large products.

Queries, keys and values are one matrix, and so are the two that enter a layer's gate. The rows of
each query and key head are put in pairs, so that turning them by their positions is one product of
complex numbers; scores between them do not change by that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

KINDS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
ROPES = frozenset({"default", "linear", "dynamic", "llama3", "yarn"})
"""Ways to turn by position that are the same for every length up to the model's context."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a config says of a Llama-shaped model."""

    layers: int
    heads: int
    kv_heads: int
    width: int
    """Of a head."""
    epsilon: float
    """Of the norms."""

    @property
    def turned(self) -> int:
        """Heads of queries and keys."""
        return self.heads + self.kv_heads

    @property
    def all_heads(self) -> int:
        """Heads of queries, keys and values."""
        return self.heads + 2 * self.kv_heads

    @property
    def cells(self) -> int:
        """Numbers that a token leaves in the cache."""
        return 2 * self.layers * self.kv_heads * self.width


def shape_of(config: PreTrainedConfig, max_length: int) -> Shape | None:
    """The shape, where sequences up to `max_length` can be read by `llama`; None elsewhere."""
    rope = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    if (
        config.model_type not in KINDS
        or config.hidden_act not in ("silu", "swish")
        or rope.get("rope_type", "default") not in ROPES
        or rope.get("partial_rotary_factor", 1.0) != 1.0
        or (window is not None and window < max_length and "sliding_attention" in kinds)
    ):
        return None
    heads = int(config.num_attention_heads)
    return Shape(
        layers=int(config.num_hidden_layers),
        heads=heads,
        kv_heads=int(config.num_key_value_heads),
        width=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        epsilon=float(config.rms_norm_eps),
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of the folder goes."""

    into: Tensor
    pairs: int = 0
    """Width of the heads whose rows are put in pairs; 0: rows stay in their order."""

    def put(self, given: Tensor) -> None:
        """Write it there."""
        if not self.pairs:
            self.into.copy_(given)
            return
        rest, half = given.shape[1:], self.pairs // 2
        halves = given.view(-1, 2, half, *rest).transpose(1, 2)
        self.into.view(-1, half, 2, *rest).copy_(halves)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: matrices [outputs, inputs], with the biases that the model has."""

    before: Tensor
    """[hidden]: the norm before attention."""
    qkv: Tensor
    qkv_bias: Tensor | None
    norms: Tensor | None
    """[heads + kv_heads, width]: the norms of queries and keys."""
    output: Tensor
    output_bias: Tensor | None
    between: Tensor
    """[hidden]: the norm after attention."""
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class LlamaWeights:
    """All weights on a device; `places` says where each tensor of the folder goes."""

    def __init__(
        self, own: Mapping[str, Tensor], shape: Shape, device: torch.device, dtype: torch.dtype
    ) -> None:
        """`own` are the tensors of the folder by name, all of which are taken."""
        self._own = own
        self._shape = shape
        self._device, self._dtype = device, dtype
        self.places: dict[str, Place] = {}
        self.embedding = self._alone("model.embed_tokens.weight")
        self.layers = [self._layer(f"model.layers.{i}.") for i in range(shape.layers)]
        self.norm = self._alone("model.norm.weight")
        tied = "lm_head.weight" not in own
        self.head = self.embedding if tied else self._alone("lm_head.weight")
        for name, place in self.places.items():
            place.put(own[name])
        self._own = {}

    def _layer(self, at: str) -> Layer:
        width = self._shape.width
        qkv = [f"{at}self_attn.{part}_proj" for part in "qkv"]
        gate_up = [f"{at}mlp.gate_proj", f"{at}mlp.up_proj"]
        output, down = f"{at}self_attn.o_proj", f"{at}mlp.down_proj"
        return Layer(
            before=self._alone(f"{at}input_layernorm.weight"),
            qkv=self._stacked(qkv, "weight", (width, width, 0)),
            qkv_bias=self._bias(qkv, (width, width, 0)),
            norms=self._norms(f"{at}self_attn."),
            output=self._alone(f"{output}.weight"),
            output_bias=self._bias([output], (0,)),
            between=self._alone(f"{at}post_attention_layernorm.weight"),
            gate_up=self._stacked(gate_up, "weight", (0, 0)),
            gate_up_bias=self._bias(gate_up, (0, 0)),
            down=self._alone(f"{down}.weight"),
            down_bias=self._bias([down], (0,)),
        )

    def _alone(self, name: str) -> Tensor:
        into = self._empty(*self._own[name].shape)
        self.places[name] = Place(into)
        return into

    def _bias(self, modules: list[str], pairs: tuple[int, ...]) -> Tensor | None:
        return self._stacked(modules, "bias", pairs) if f"{modules[0]}.bias" in self._own else None

    def _stacked(self, modules: list[str], kind: str, pairs: tuple[int, ...]) -> Tensor:
        """Tensors of several modules, one below the other."""
        names = [f"{module}.{kind}" for module in modules]
        rows = [len(self._own[name]) for name in names]
        into = self._empty(sum(rows), *self._own[names[0]].shape[1:])
        parts = into.tensor_split(np.cumsum(rows)[:-1].tolist())
        for name, part, width in zip(names, parts, pairs, strict=True):
            self.places[name] = Place(part, width)
        return into

    def _norms(self, at: str) -> Tensor | None:
        if f"{at}q_norm.weight" not in self._own:
            return None
        into = self._empty(self._shape.turned, self._shape.width)
        of_queries, of_keys = into.tensor_split([self._shape.heads])
        self.places[f"{at}q_norm.weight"] = Place(of_queries, self._shape.width)
        self.places[f"{at}k_norm.weight"] = Place(of_keys, self._shape.width)
        return into

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, device=self._device, dtype=self._dtype)
