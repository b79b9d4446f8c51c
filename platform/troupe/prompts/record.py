"""A run's prompts on disk: `prompts.json`, as they stood a moment ago or when the run ended."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from troupe.prompts.source import opening
from troupe.runs import write_aside
from troupe.store import StoreError
from troupe.store.connection import Store
from troupe.store.prompt_state import DeadState, LeaseState, PromptState, look
from troupe.store.prompt_texts import Found, PromptTexts

FILE = "prompts.json"
EVERY = 2.0
"""Seconds between two looks."""
MOST_DEAD = 1000
"""The newest are kept; their number is not limited."""
_OPENING = 200


class PromptRecord:
    """Written by the launcher, since nobody else may ask a store that it started for the run.

    Args:
        store: the run's.
        folder: the run's.
        clock: seconds from anywhere.
    """

    def __init__(
        self, store: Store, folder: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._file = folder / FILE
        self._texts = PromptTexts(store)
        self._read: dict[int, Found] = {}
        self._clock = clock
        self._due = clock()

    def poll(self) -> None:
        """Look, now and then.

        Raises:
            UserError, RunFolderError: it cannot be written.
        """
        if self._clock() >= self._due:
            self._due = self._clock() + EVERY
            self.write()

    def write(self) -> None:
        """Look, and write what is new; of a store that does not answer, nothing is.

        Raises:
            UserError, RunFolderError: it cannot be written.
        """
        try:
            state = look(self._store)
            if not state.size:
                return
            text = json.dumps(self._document(state))
        except StoreError:
            return
        write_aside(self._file, text + "\n")

    def _document(self, state: PromptState) -> dict[str, object]:
        dead = state.dead[:MOST_DEAD]
        asked = [lease.ticket for lease in state.leased] + [one.ticket for one in dead]
        unread = [ticket for ticket in asked if ticket not in self._read]
        found = dict(zip(unread, self._texts.read(unread), strict=True))
        self._read = {ticket: self._read.get(ticket) or found[ticket] for ticket in asked}
        return {
            "time": round(time.time(), 3),
            "prompts": state.size,
            "epoch": state.epoch,
            "epochs": state.epochs,
            "ready": state.ready,
            "returned": state.returned,
            "leased": [self._leased(lease) for lease in state.leased],
            "waiting": state.waiting,
            "done": state.done,
            "dropped": dict(state.dropped),
            "dead_count": len(state.dead),
            "dead": [self._dead(one) for one in dead],
        }

    def _leased(self, lease: LeaseState) -> Mapping[str, object]:
        found = self._read[lease.ticket]
        return {
            "prompt": found.prompt.id,
            "epoch": found.epoch,
            "holder": lease.holder,
            "seconds": round(lease.seconds, 1),
            "left": round(lease.left, 1),
        }

    def _dead(self, one: DeadState) -> Mapping[str, object]:
        found = self._read[one.ticket]
        return {
            "prompt": found.prompt.id,
            "epoch": found.epoch,
            "text": opening(found.prompt, _OPENING),
            "deliveries": one.deliveries,
            "time": round(one.time, 1),
            "reason": one.reason,
        }
