"""The sequences that run: what each was asked for, and what was sampled so far, in host memory."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from troupe import seeding
from troupe_actors.engines import Completion, Request
from troupe_actors.engines.tiny.decoding import Tokens
from troupe_actors.engines.tiny.drawing import Drawing, uniform

_NOTHING = np.empty(0, np.int32)


class Running:
    """At most `slots` sequences. Each has a place that it keeps; `rows` is their order in the decoder."""

    def __init__(self, slots: int, max_length: int, vocabulary: int) -> None:
        self._max_length = max_length
        self._vocabulary = vocabulary
        self.rows: NDArray[np.int64] = np.zeros(0, np.int64)
        """[n]: the place of each row of the decoder."""
        self._free = list(range(slots))
        self._requests: dict[int, Request] = {}
        """By place."""
        self._key = np.zeros(slots, np.uint64)
        self._count = np.zeros(slots, np.int64)
        self._limit = np.zeros(slots, np.int64)
        self._last = np.zeros(slots, np.int64)
        self._stopping = np.zeros(slots, np.int64)
        """Row of `_stops` that each place goes by."""
        self._stops = np.zeros((0, vocabulary), np.bool_)
        self._stop_rows: dict[tuple[int, ...], int] = {}
        self._tokens = np.zeros((slots, max_length), np.int32)
        self._log_prob = np.zeros((slots, max_length), np.float32)
        self._version = np.zeros((slots, max_length), np.uint32)

    @property
    def room(self) -> int:
        """How many more could run."""
        return len(self._free)

    @property
    def last(self) -> NDArray[np.int64]:
        """[n]: the token that each row is to read next."""
        return self._last[self.rows]

    @property
    def ids(self) -> NDArray[np.int64]:
        """[n]: the request of each row."""
        return np.array([self._requests[place].id for place in self.rows.tolist()], np.int64)

    def add(self, requests: Sequence[Request]) -> None:
        """Let these run, as rows behind the others."""
        places = [self._free.pop() for _ in requests]
        for place, request in zip(places, requests, strict=True):
            sampling = request.sampling
            self._requests[place] = request
            self._key[place] = seeding.key(request.seed, "tokens")
            self._count[place] = 0
            self._limit[place] = min(sampling.max_tokens, self._max_length - len(request.prompt))
            self._last[place] = request.prompt[-1]
            self._stopping[place] = self._stop_row(sampling.stop)
        self.rows = np.concatenate([self.rows, np.array(places, np.int64)])

    def texts(self) -> list[Tokens]:
        """By row: what it has read, which is all but the last token."""
        return [
            np.concatenate([self._requests[p].prompt, self._tokens[p, : self._count[p]]])[:-1]
            for p in self.rows.tolist()
        ]

    def said(self, id_: int) -> Tokens:
        """What was sampled so far for a request; nothing where it does not run."""
        places = [place for place, request in self._requests.items() if request.id == id_]
        return self._tokens[places[0], : self._count[places[0]]] if places else _NOTHING

    def uniform(self) -> NDArray[np.float32]:
        """[n]: the number that each row draws its next token by."""
        return uniform(self._key[self.rows], self._count[self.rows])

    def drawing(self, device: torch.device) -> Drawing:
        """How the rows draw."""
        samplings = [self._requests[place].sampling for place in self.rows.tolist()]
        heat = np.array([s.temperature for s in samplings], np.float32)
        greedy = heat == 0.0
        heat[greedy] = 1.0
        top_k = np.array([s.top_k or self._vocabulary for s in samplings], np.int64)
        top_p = np.array([s.top_p for s in samplings], np.float32)
        whole = (top_k >= self._vocabulary).all() and (top_p == 1.0).all()

        def sent(array: NDArray[np.generic], needed: bool) -> torch.Tensor | None:
            return torch.from_numpy(array).to(device) if needed else None

        return Drawing(
            temperature=sent(heat[:, None], bool((heat != 1.0).any())),
            greedy=sent(greedy, bool(greedy.any())),
            top_k=sent(top_k[:, None], not whole),
            top_p=sent(top_p[:, None], not whole),
        )

    def record(
        self, token: NDArray[np.int64], log_prob: NDArray[np.float32], version: int
    ) -> NDArray[np.bool_]:
        """Note what each row [n] sampled; which rows have finished by it."""
        rows, count = self.rows, self._count[self.rows]
        self._tokens[rows, count] = token
        self._log_prob[rows, count] = log_prob
        self._version[rows, count] = version
        self._last[rows] = token
        self._count[rows] = count + 1
        finished: NDArray[np.bool_] = self._stopped(rows) | (count + 1 == self._limit[rows])
        return finished

    def completions(self, finished: NDArray[np.bool_]) -> list[Completion]:
        """What came of the rows that finished [n]."""
        return [self._completion(place) for place in self.rows[finished].tolist()]

    def keep(self, order: NDArray[np.int64], leaving: NDArray[np.bool_]) -> None:
        """Forget the rows `leaving` [n]; `order` says which row each place of the decoder has now."""
        for place in self.rows[leaving].tolist():
            del self._requests[place]
            self._free.append(place)
        self.rows = self.rows[order]

    def _completion(self, place: int) -> Completion:
        count = int(self._count[place])
        finish: Literal["stop", "length"] = (
            "stop" if self._stopped(np.array([place]))[0] else "length"
        )
        return Completion(
            id=self._requests[place].id,
            tokens=self._tokens[place, :count].copy(),
            log_prob=self._log_prob[place, :count].copy(),
            version=self._version[place, :count].copy(),
            finish=finish,
        )

    def _stopped(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        stopped: NDArray[np.bool_] = self._stops[self._stopping[places], self._last[places]]
        return stopped

    def _stop_row(self, stop: tuple[int, ...]) -> int:
        """The row of `_stops` for these tokens."""
        if stop not in self._stop_rows:
            row = np.zeros((1, self._vocabulary), np.bool_)
            row[0, [token for token in stop if token < self._vocabulary]] = True
            self._stops = np.concatenate([self._stops, row])
            self._stop_rows[stop] = len(self._stop_rows)
        return self._stop_rows[stop]
