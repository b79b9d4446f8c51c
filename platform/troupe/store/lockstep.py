"""Where actors go on in lockstep, as they and the learner write it down."""

from typing import NamedTuple

from troupe.store.board import Board
from troupe.store.connection import Store

_DOCUMENT = "lockstep"


class Place(NamedTuple):
    """Where one actor goes on."""

    turn: int
    state: bytes
    """What it needs to play that turn, as it wrote it itself."""


class Places:
    """Every actor slot's place. Writing works even when the store's memory is full."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._board = Board(store)

    def announced(self, attempt: int) -> int | None:
        """The first turn of an attempt, once its actors may begin."""
        document = self._board.get(_DOCUMENT)
        if document is None or document["attempt"] != attempt:
            return None
        return int(str(document["turn"]))

    def put(self, slot: int, place: Place) -> None:
        """Write down where an actor goes on, both parts at once."""
        self._store.call("put", [self._key(slot)], ["turn", place.turn, "state", place.state])

    def get(self, slot: int) -> Place | None:
        """Where an actor goes on; none where nothing was written down."""
        with self._store.guard():
            held = self._store.redis.hgetall(self._key(slot))
        if not held:
            return None
        state = held[b"state"]
        assert isinstance(state, bytes)
        return Place(int(held[b"turn"]), state)

    def _key(self, slot: int) -> str:
        return self._store.key("lockstep", slot)
