"""A cache layer of transformers that has room: its own one copies all it holds for every token."""

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens that fit between two copies."""


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """`DynamicLayer` whose keys and values are the front of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room: tuple[Tensor, Tensor] | None = None
        self._front: Tensor | None = None
        """The keys as they were left here. Whoever puts others in their place leaves the room behind."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, heads, new, width]; all of them. The rest is the model's own affair."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        total = held + key_states.shape[2]
        room = self._with_room(key_states, value_states, held, total)
        room[0][:, :, held:total] = key_states
        room[1][:, :, held:total] = value_states
        self.keys, self.values = room[0][:, :, :total], room[1][:, :, :total]
        self._room, self._front = room, self.keys
        return self.keys, self.values

    def _with_room(
        self, keys: Tensor, values: Tensor, held: int, total: int
    ) -> tuple[Tensor, Tensor]:
        if self._room is not None and self.keys is self._front and total <= self._room[0].shape[2]:
            return self._room
        room = _empty(keys, total + ROOM), _empty(values, total + ROOM)
        if held and self.keys is not None and self.values is not None:
            room[0][:, :, :held] = self.keys
            room[1][:, :, :held] = self.values
        return room


def roomy_cache() -> DynamicCache:
    """An empty cache of such layers, as many as the model asks for."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = RoomyLayer
    return cache


def _empty(like: Tensor, length: int) -> Tensor:
    batch, heads, _, width = like.shape
    return torch.empty((batch, heads, length, width), dtype=like.dtype, device=like.device)
