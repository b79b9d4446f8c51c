"""Where a run keeps its prompts, and what its tickets stand for."""

from collections.abc import Sequence
from typing import NamedTuple

from troupe.prompts import Prompt
from troupe.prompts.order import Order
from troupe.prompts.source import from_json
from troupe.store import StoreError
from troupe.store.connection import Store

NAMES = ("state", "leases", "expiry", "returned", "deliveries", "dead", "dropped", "grants",
         "trials", "answers")  # fmt: skip
"""The keys that every function is handed, in the order of `prompts.lua`."""


def key(store: Store, name: str) -> str:
    """The name of one of the prompts' keys."""
    return store.key("prompts", name)


def keys(store: Store) -> list[str]:
    """All that a function is handed."""
    return [key(store, name) for name in NAMES]


class Found(NamedTuple):
    """What a ticket stands for."""

    epoch: int
    prompt: Prompt


class PromptTexts:
    """Reads prompts by ticket, once they are loaded."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._order: Order | None = None

    def read(self, tickets: Sequence[int]) -> list[Found]:
        """What each of them stands for.

        Raises:
            StoreError: the prompts are not there.
        """
        if not tickets:
            return []
        order = self._known_order()
        places = [order.place(ticket) for ticket in tickets]
        with self._store.guard():
            found = self._store.redis.hmget(
                key(self._store, "texts"), [str(place.prompt) for place in places]
            )
        there = [one for one in found if one is not None]
        if len(there) < len(places):
            self._order = None
            raise self._missing()
        return [
            Found(place.epoch, from_json(place.prompt, one))
            for place, one in zip(places, there, strict=True)
        ]

    def _known_order(self) -> Order:
        if self._order is None:
            with self._store.guard():
                known = self._store.redis.hmget(
                    key(self._store, "state"), ["size", "seed", "shuffle"]
                )
            if None in known:
                raise self._missing()
            size, seed, shuffle = (int(value or 0) for value in known)
            self._order = Order(size, seed, shuffle=bool(shuffle))
        return self._order

    def _missing(self) -> StoreError:
        return StoreError(f"store at {self._store.where}: the prompts are not there (any more)")
