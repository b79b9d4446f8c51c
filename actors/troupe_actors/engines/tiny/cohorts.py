"""A decoder for any model of transformers, by its own forward and its own cache classes.

A cohort is a batch with one cache whose rows end in the same column: shorter ones are padded in
front. Where all of a model's layers keep keys and values of every position, a cohort that joins is
padded likewise and becomes part of the first. Other caches (linear attention, state spaces) know no
padding and cannot be joined, so such cohorts are of one length each, run one after the other.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from troupe.episodes import Columns
from troupe.language.models import own_tensors
from troupe_actors.engines._arrivals import Arrivals
from troupe_actors.engines.tiny.decoding import Tokens
from troupe_actors.engines.tiny.roomy import RoomyLayer, roomy_cache


@dataclass(slots=True, eq=False)
class Cohort:
    """B rows that were read together, up to the same column."""

    cache: DynamicCache
    real: Tensor
    """int64 [B, columns]: 1 where a row has a token, 0 where it is padded."""
    padded: bool
    """Whether there is padding."""


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """What a text leaves: a row of a cohort."""

    cohort: Cohort
    row: int


class CohortDecoder:
    """`Decoder` over a model that is on its device already."""

    def __init__(self, model: PreTrainedModel, arrivals: Arrivals) -> None:
        self._model = model
        self._own = own_tensors(model)
        self._arrivals = arrivals
        self._device = model.device
        layers = DynamicCache(config=model.config).layers
        whole = (DynamicLayer, DynamicSlidingWindowLayer)
        self._joins = all(type(layer) in whole for layer in layers)
        known = inspect.signature(model.forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in known else "cache_params"
        self._takes_places = "position_ids" in known
        self._takes_keep = "logits_to_keep" in known
        self._cohorts: list[Cohort] = []

    def read(self, texts: Sequence[Tokens]) -> list[Left]:
        """See `Decoder`."""
        if self._joins:
            return self._read(texts)
        left: dict[int, Left] = {}
        for length in sorted({len(text) for text in texts}):
            alike = [i for i, text in enumerate(texts) if len(text) == length]
            left.update(zip(alike, self._read([texts[i] for i in alike]), strict=True))
        return [left[i] for i in range(len(texts))]

    def admit(self, texts: Sequence[Left]) -> None:
        """See `Decoder`."""
        for _, lefts in groupby(texts, key=lambda left: id(left.cohort)):
            alike = list(lefts)
            rows = torch.tensor([left.row for left in alike], device=self._device)
            self._cohorts.append(_selected(alike[0].cohort, rows))
            if self._joins and len(self._cohorts) > 1:
                behind, front = self._cohorts.pop(), self._cohorts.pop()
                self._cohorts.append(_joined(front, behind))

    def keep(self, going: NDArray[np.bool_]) -> NDArray[np.int64]:
        """See `Decoder`. Rows stay in their order."""
        bounds = np.cumsum([len(cohort.real) for cohort in self._cohorts])[:-1]
        staying = zip(self._cohorts, np.split(going, bounds), strict=True)
        self._cohorts = [
            cohort if mine.all() else _trimmed(self._chosen(cohort, mine))
            for cohort, mine in staying
            if mine.any()
        ]
        return np.flatnonzero(going)

    def step(self, tokens: NDArray[np.int64]) -> Tensor:
        """See `Decoder`."""
        sizes = [len(cohort.real) for cohort in self._cohorts]
        given = (
            torch.from_numpy(tokens)
            .to(self._device)
            .unsqueeze(1)
            .tensor_split(np.cumsum(sizes)[:-1].tolist())
        )
        logits = []
        for cohort, mine in zip(self._cohorts, given, strict=True):
            cohort.real = F.pad(cohort.real, (0, 1), value=1)
            logits.append(self._run(cohort, mine)[:, -1])
        return torch.cat(logits).float()

    def load(self, tensors: Columns, bfloat16: Collection[str]) -> None:
        """See `Decoder`."""
        for name, tensor in self._arrivals.taken(tensors, bfloat16):
            self._own[name].copy_(tensor)

    def _read(self, texts: Sequence[Tokens]) -> list[Left]:
        """The same as one cohort."""
        span = max(map(len, texts))
        tokens = np.zeros((len(texts), span), np.int64)
        real = np.zeros_like(tokens)
        for i, text in enumerate(texts):
            tokens[i, span - len(text) :] = text
            real[i, span - len(text) :] = 1
        mask = torch.from_numpy(real).to(self._device)
        cohort = Cohort(self._new_cache(), mask, bool((real == 0).any()))
        if span:
            self._run(cohort, torch.from_numpy(tokens).to(self._device))
        return [Left(cohort, row) for row in range(len(texts))]

    def _run(self, cohort: Cohort, tokens: Tensor) -> Tensor:
        """Read tokens [B, C] that are the last columns of `cohort.real`; the logits of the last."""
        given: dict[str, Tensor | DynamicCache | int | bool] = {
            "input_ids": tokens,
            self._cache_name: cohort.cache,
            "use_cache": True,
        }
        if cohort.padded:
            given["attention_mask"] = cohort.real
        if self._takes_places and cohort.padded:
            places = (cohort.real.cumsum(1) - 1).clamp_(min=0)
            given["position_ids"] = places[:, -tokens.shape[1] :]
        if self._takes_keep:
            given["logits_to_keep"] = 1
        logits: Tensor = self._model(**given).logits
        return logits

    def _new_cache(self) -> DynamicCache:
        # Without the config, layers with a window keep all positions too, which the mask hides.
        return roomy_cache() if self._joins else DynamicCache(config=self._model.config)

    def _chosen(self, cohort: Cohort, going: NDArray[np.bool_]) -> Cohort:
        return _selected(cohort, torch.from_numpy(np.flatnonzero(going)).to(self._device))


def _selected(cohort: Cohort, rows: Tensor) -> Cohort:
    """Some rows of a cohort, which stays as it is; a row may come several times."""
    cache = _copied(cohort.cache)
    cache.reorder_cache(cast(torch.LongTensor, rows))
    return Cohort(cache, cohort.real[rows], cohort.padded)


def _copied(cache: DynamicCache) -> DynamicCache:
    """A cache of its own; tensors that are replaced rather than written are shared."""
    if any(type(layer) is not RoomyLayer for layer in cache.layers):
        return deepcopy(cache)
    new = copy(cache)
    new.layers = [copy(layer) for layer in cache.layers]
    return new


def _trimmed(cohort: Cohort) -> Cohort:
    """The same without columns in front that no row uses any more, where its cache can do that."""
    if not cohort.padded or any(type(layer) is not RoomyLayer for layer in cohort.cache.layers):
        return cohort
    unused = int(cohort.real.any(0).int().argmax())
    for layer in cohort.cache.layers:
        keys, values = _pair(layer)
        _set(layer, keys[:, :, unused:], values[:, :, unused:])
    cohort.real = cohort.real[:, unused:]
    cohort.padded = not bool(cohort.real.all())
    return cohort


def _joined(first: Cohort, second: Cohort) -> Cohort:
    """One cohort with the rows of both, padded in front to the longer one."""
    span = max(first.real.shape[1], second.real.shape[1])
    for cohort in (first, second):
        _widen(cohort, span - cohort.real.shape[1])
    cache = roomy_cache()
    for i in range(max(len(first.cache.layers), len(second.cache.layers))):
        keys, values = zip(*_stored((first, second), i), strict=True)
        cache.update(torch.cat(keys), torch.cat(values), i)
    return Cohort(cache, torch.cat([first.real, second.real]), first.padded or second.padded)


def _stored(cohorts: Sequence[Cohort], layer: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values of each cohort; zero where it has read nothing yet."""
    known = next(_pair(c.cache.layers[layer]) for c in cohorts if layer < len(c.cache.layers))
    for cohort in cohorts:
        if layer < len(cohort.cache.layers):
            yield _pair(cohort.cache.layers[layer])
        else:
            keys, values = (t[:1].expand(len(cohort.real), -1, -1, -1) for t in known)
            yield torch.zeros_like(keys), torch.zeros_like(values)


def _pair(layer: object) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer that keeps all positions."""
    assert isinstance(layer, DynamicLayer)
    assert layer.keys is not None
    assert layer.values is not None
    return layer.keys, layer.values


def _set(layer: object, keys: Tensor, values: Tensor) -> None:
    assert isinstance(layer, DynamicLayer)
    layer.keys, layer.values = keys, values


def _widen(cohort: Cohort, columns: int) -> None:
    if not columns:
        return
    for layer in cohort.cache.layers:
        keys, values = (F.pad(tensor, (0, 0, columns, 0)) for tensor in _pair(layer))
        _set(layer, keys, values)
    cohort.real = F.pad(cohort.real, (columns, 0))
    cohort.padded = True
