"""The loop: who runs, who waits, and a token for everyone who runs."""

from collections import deque
from collections.abc import Collection, Sequence
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray

from troupe.episodes import Columns
from troupe.errors import TroupeError
from troupe_actors.engines import Completion, Request, check_request
from troupe_actors.engines.tiny.decoding import Decoder, P
from troupe_actors.engines.tiny.drawing import Drawing
from troupe_actors.engines.tiny.running import Running


class Loop(Generic[P]):
    """`Engine` over a decoder."""

    def __init__(
        self,
        decoder: Decoder[P],
        device: torch.device,
        *,
        slots: int,
        max_length: int,
        vocabulary: int,
        reread: bool,
    ) -> None:
        """See `EngineSettings`."""
        self._decoder = decoder
        self._device = device
        self._max_length = max_length
        self._vocabulary = vocabulary
        self._reread = reread
        self._version = 0
        self._waiting: deque[Request] = deque()
        self._running = Running(slots, max_length, vocabulary)
        self._drawing: Drawing | None = None
        """How the rows draw; None after their number has changed."""
        self._ahead: dict[bytes, P] = {}
        """The prompt of who waits first, where others of its group run already."""

    def load(self, version: int, tensors: Columns, bfloat16: Collection[str] = frozenset()) -> None:
        """See `Engine`."""
        with torch.inference_mode():
            self._decoder.load(tensors, bfloat16)
            self._version = version
            self._ahead = {}
            if self._reread:
                texts = self._running.texts()
                self._decoder.keep(np.zeros(len(texts), np.bool_))
                self._decoder.admit(self._decoder.read(texts))

    def submit(self, requests: Sequence[Request]) -> None:
        """See `Engine`."""
        for request in requests:
            check_request(request, self._vocabulary, self._max_length)
        self._waiting.extend(requests)

    def step(self) -> list[Completion]:
        """See `Engine`."""
        with torch.inference_mode():
            self._admit()
            if not len(self._running.rows):
                return []
            finished = self._running.record(*self._sampled(), self._version)
            completions = self._running.completions(finished) if finished.any() else []
            self._forget(finished)
            return completions

    def said(self, id_: int) -> NDArray[np.int32]:
        """The tokens of a request so far, for somebody who reads along; none where it does not run."""
        return self._running.said(id_)

    def cancel(self, ids: Collection[int]) -> None:
        """See `Engine`."""
        self._waiting = deque(request for request in self._waiting if request.id not in ids)
        with torch.inference_mode():
            self._forget(np.isin(self._running.ids, list(ids)))

    @property
    def pending(self) -> int:
        """See `Engine`."""
        return len(self._waiting) + len(self._running.rows)

    def _admit(self) -> None:
        """Let as many run as there is room for."""
        count = min(self._running.room, len(self._waiting))
        if not count:
            return
        requests = [self._waiting.popleft() for _ in range(count)]
        keys = [request.prompt.tobytes() for request in requests]
        unread = {
            key: request.prompt[:-1]
            for key, request in zip(keys, requests, strict=True)
            if key not in self._ahead
        }
        read = self._decoder.read(list(unread.values())) if unread else []
        self._ahead.update(zip(unread, read, strict=True))
        self._decoder.admit([self._ahead[key] for key in keys])
        self._running.add(requests)
        self._drawing = None
        following = {self._waiting[0].prompt.tobytes()} if self._waiting else set()
        self._ahead = {key: self._ahead[key] for key in following & self._ahead.keys()}

    def _sampled(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The next token [n] of each row, and its log-probability."""
        if self._drawing is None:
            self._drawing = self._running.drawing(self._device)
        number = torch.from_numpy(self._running.uniform()).to(self._device)
        logits = self._decoder.step(self._running.last)
        token, log_prob = self._drawing.draw(logits, number)
        # One transfer for both: a token is below 2^53, which float64 holds.
        both = torch.stack([token.double(), log_prob.double()]).cpu().numpy()
        if not np.isfinite(both[1]).all():
            raise TroupeError("policy: an output is not finite, its weights have diverged")
        return both[0].astype(np.int64), both[1].astype(np.float32)

    def _forget(self, leaving: NDArray[np.bool_]) -> None:
        if leaving.any():
            self._running.keep(self._decoder.keep(~leaving), leaving)
            self._drawing = None
