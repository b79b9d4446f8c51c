"""Engines: whatever continues prompts, token in and token out. One file or folder each, found by its name.

A file offers `create(folder, settings) -> Engine`. Nothing but tokens goes in and out, so an engine
may live in an image of its own, with another torch than the learner.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from troupe import plugins
from troupe.episodes import Columns
from troupe.errors import UserError
from troupe.language.models import ModelFolder
from troupe.language.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn: from softmax(logits / temperature), cut to `top_k`, then to `top_p`."""

    max_tokens: int
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability. Below 1 for evaluation only."""
    top_k: int = 0
    """Only this many of the likeliest tokens; 0 is all of them. For evaluation only."""
    stop: tuple[int, ...] = ()
    """Tokens that end a completion."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A completion that is asked for."""

    id: int
    prompt: NDArray[np.int32]
    """[P], at least one token."""
    seed: int
    """Tokens are drawn by this alone, whatever else runs at the same time."""
    sampling: Sampling
    group: int = 0
    """Of requests with the same prompt; an engine may read the prompt of a group once."""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What came of a request, T tokens."""

    id: int
    tokens: NDArray[np.int32]
    """[T]: what was sampled; a stop token is the last of them, once."""
    log_prob: NDArray[np.float32]
    """[T]: of each token under the distribution it was drawn from. At temperature 0, where that has
    one token only, under the distribution at temperature 1."""
    version: NDArray[np.uint32]
    """[T]: the weights that chose each token."""
    finish: Literal["stop", "length"]
    """`length`: `max_tokens`, or the engine's `max_length`, was reached."""


class Engine(Protocol):
    """Runs many requests at once, those that finish making room for those that wait."""

    def load(self, version: int, tensors: Columns, bfloat16: Collection[str] = frozenset()) -> None:
        """Take weights by their names in the model's folder, whole or not at all, between two tokens.

        Sequences that run go on: what they have read stays as the old weights read it, unless the
        engine's settings say `reread`. Tied weights come once. With a LoRA adapter, `tensors` are
        the adapter's alone.

        Args:
            bfloat16: names of uint16 tensors that hold the bits of bfloat16 numbers.

        Raises:
            TroupeError: they are not the tensors of this model.
        """
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests, with ids that no pending one has; they start in this order.

        Raises:
            UserError: a prompt is empty or leaves no room for a token, or has tokens that the model
                does not know; none of the requests is queued then.
        """
        ...

    def step(self) -> list[Completion]:
        """Sample a token for every running sequence; the completions that this finished.

        Raises:
            TroupeError: an output is not finite: the weights have diverged.
        """
        ...

    def cancel(self, ids: Collection[int]) -> None:
        """Forget these requests, running or not; ids that are not pending are none."""
        ...

    @property
    def pending(self) -> int:
        """Requests that wait or run."""
        ...


def create(folder: ModelFolder, settings: EngineSettings, key: str = "engine") -> Engine:
    """The engine of that name, with the folder's own weights as version 0.

    `key` is the path of the settings in the job file, for errors.

    Raises:
        UserError: there is no such engine, its extra is missing, or the model does not fit.
    """
    check_context(folder, settings, key)
    module = plugins.find(__name__, settings.name, f"{key}.name")
    engine: Engine = module.create(folder, settings)
    return engine


def check_context(folder: ModelFolder, settings: EngineSettings, key: str) -> None:
    """Raises UserError if the model cannot read sequences as long as the settings allow."""
    if folder.context is not None and settings.max_length > folder.context:
        raise UserError(
            f"{key}.max_length: {settings.max_length} is past the {folder.context} tokens that "
            f"{str(folder.path)!r} reads; set it to {folder.context} or less"
        )


def check_request(request: Request, vocabulary: int, max_length: int) -> None:
    """Raises UserError if no engine could answer the request."""
    prompt = request.prompt
    if not 1 <= len(prompt) < max_length:
        raise UserError(
            f"prompt {request.id}: {len(prompt)} tokens; it needs at least one, and room for one more "
            f"below max_length {max_length}: leave it out, or raise max_length"
        )
    if prompt.min() < 0 or prompt.max() >= vocabulary:
        raise UserError(
            f"prompt {request.id}: has tokens up to {prompt.max()}, the model knows {vocabulary}; "
            "it was made by another tokenizer"
        )
    check_sampling(request.sampling)


def check_sampling(sampling: Sampling) -> None:
    """Raises UserError if nothing can be drawn that way."""
    wrong = {
        "max_tokens": sampling.max_tokens < 1,
        "temperature": not 0.0 <= sampling.temperature < float("inf"),
        "top_p": not 0.0 < sampling.top_p <= 1.0,
        "top_k": sampling.top_k < 0,
    }
    for name in (name for name, bad in wrong.items() if bad):
        raise UserError(
            f"sampling.{name}: {getattr(sampling, name)} is out of range; max_tokens is 1 or more, "
            "temperature 0 or more, top_p above 0 and at most 1, top_k 0 (all) or more"
        )


def check_training(sampling: Sampling, key: str = "sampling") -> None:
    """See that completions so drawn can be learned from.

    Raises:
        UserError: the learner could not reckon with the distribution: it is cut, or has one token.
    """
    if sampling.temperature == 0.0:
        raise UserError(
            f"{key}.temperature: 0 always takes the likeliest token, so there is nothing to learn "
            "from; use a temperature above 0, such as 1.0"
        )
    for name, full in (("top_p", 1.0), ("top_k", 0)):
        if getattr(sampling, name) != full:
            raise UserError(
                f"{key}.{name}: {getattr(sampling, name)} cuts the distribution, which the learner "
                f"does not; train with {full} and cut in evaluation only"
            )
