"""Small documents that all processes of a run share: addresses, metrics, the word to stop."""

import json
from collections.abc import Mapping

from troupe.store.connection import Store, text


class Board:
    """A run's notice board in the store. Writing works even when the store's memory is full."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._documents = store.key("documents")
        self._snapshots = store.key("snapshots")
        self._control = store.key("control")
        self._incarnations = store.key("incarnations")

    def put(self, name: str, document: Mapping[str, object]) -> None:
        """Put up a document of JSON values under a name, in the place of an earlier one."""
        self.store.call("put", [self._documents], [name, json.dumps(document, allow_nan=False)])

    def get(self, name: str) -> dict[str, object] | None:
        """The document of that name, if there is one."""
        with self.store.guard():
            document = self.store.redis.hget(self._documents, name)
        return None if document is None else _document(document)

    def request_stop(self, reason: str) -> None:
        """Ask every process of the run to finish."""
        self.store.call("put", [self._control], ["stop", reason])

    def stop_requested(self) -> str | None:
        """Why the run is to stop, if it is."""
        with self.store.guard():
            reason = self.store.redis.hget(self._control, "stop")
        return None if reason is None else text(reason)

    def clear_stop(self) -> None:
        """Forget an earlier request to stop, before a run goes on."""
        with self.store.guard():
            self.store.redis.hdel(self._control, "stop")

    def incarnation(self, role: str, slot: int) -> int:
        """How often this slot was started before; every call is a start."""
        with self.store.guard():
            return int(self.store.redis.hincrby(self._incarnations, f"{role}-{slot}", 1)) - 1

    def snapshot(self, process: str, values: Mapping[str, float | str]) -> None:
        """Put up a process's newest metrics."""
        self.store.call("put", [self._snapshots], [process, json.dumps(values)])

    def snapshots(self) -> dict[str, dict[str, object]]:
        """The newest metrics of every process that ever put some up."""
        with self.store.guard():
            held = self.store.redis.hgetall(self._snapshots)
        return {text(process): _document(document) for process, document in held.items()}


def _document(written: bytes | str) -> dict[str, object]:
    document = json.loads(written)
    assert isinstance(document, dict)
    return document
