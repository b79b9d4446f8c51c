"""Decisions of games that are still being played, and the blocks made of those that have ended."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from troupe.episodes import Array, Ending, Episodes
from troupe.policies import ACTION, Choices, Decisions

_FIRST_LENGTH = 32

Sections = dict[str, dict[str, Array]]
"""Columns by section (observation, action, step, fragment) and name."""


@dataclass(frozen=True, slots=True)
class Author:
    """Whose name a block bears; as in `Episodes`."""

    actor: str
    incarnation: int
    attempt: int


class Recorder:
    """Collects what one policy does, over T tables and the seats that it plays.

    A fragment is what one seat did in one game. Its reward is 0 until its last step, which gets
    the seat's payoff. A seat that had nothing to decide leaves no fragment.
    """

    def __init__(
        self, policy: str, seats: Sequence[int], tables: int, block_steps: int, author: Author
    ) -> None:
        self._policy = policy
        self._seats = np.asarray(seats, np.uint8)
        self._place = np.zeros(max(seats) + 1, np.int64)
        self._place[self._seats] = np.arange(len(seats))
        self._author = author
        self._block_steps = block_steps
        # The first games that end are sent at once, so that a restarted actor is soon of use.
        self._wanted = 1
        fragments = tables * len(seats)
        self._lengths = np.zeros(fragments, np.int64)
        self._groups = np.zeros(fragments, np.int64)
        self._capacity = _FIRST_LENGTH
        self._open: Sections = {}
        """Columns [T * seats * capacity, ...]: step i of fragment f is row `f * capacity + i`."""
        self._ended: list[Sections] = []
        self._steps = 0
        """How many are in games that have ended."""

    def record(
        self,
        tables: NDArray[np.int64],
        seats: NDArray[np.uint8],
        groups: NDArray[np.int64],
        decisions: Decisions,
        choices: Choices,
        version: int,
    ) -> None:
        """Take down one decision on each of B different tables.

        Args:
            tables: [B]; seats: [B], who decided there; groups: [B], the number of the deal.
            version: of the weights that chose.
        """
        fragments = tables * len(self._seats) + self._place[seats]
        if int(self._lengths[fragments].max(initial=0)) == self._capacity:
            self._grow()
        rows = fragments * self._capacity + self._lengths[fragments]
        taken = decisions.legal[decisions.offsets[:-1] + choices.choice]
        versions = np.full(len(tables), version, np.uint32)
        for section, columns in (
            ("observation", decisions.observation),
            ("action", {ACTION: taken}),
            ("step", {"log_prob": choices.log_prob, "version": versions}),
        ):
            held = self._open.setdefault(section, {})
            for name, values in columns.items():
                if name not in held:
                    size = len(self._lengths) * self._capacity
                    held[name] = np.zeros((size, *values.shape[1:]), values.dtype)
                held[name][rows] = values
        self._groups[fragments] = groups
        self._lengths[fragments] += 1

    def finish(self, tables: NDArray[np.int64], payoff: NDArray[np.float32]) -> Episodes | None:
        """End the games on K different tables; a block, once enough steps are in ended games.

        Args:
            tables: [K]; payoff: [K, seats of the game].
        """
        own = tables[:, None] * len(self._seats) + np.arange(len(self._seats))
        table, place = np.nonzero(self._lengths[own])
        if table.size:
            reward = payoff[table, self._seats[place]]
            self._ended.append(self._take(own[table, place], self._seats[place], reward))
            self._steps += len(self._ended[-1]["step"]["reward"])
        return self._block() if self._steps >= self._wanted else None

    def _take(
        self, fragments: NDArray[np.int64], seat: NDArray[np.uint8], payoff: NDArray[np.float32]
    ) -> Sections:
        """Move N fragments out of the buffers; `seat` and `payoff` are [N]."""
        length = self._lengths[fragments]
        ends = np.cumsum(length)
        rows = np.arange(ends[-1])
        rows += np.repeat(fragments * self._capacity - (ends - length), length)
        taken = {
            section: {name: column[rows] for name, column in columns.items()}
            for section, columns in self._open.items()
        }
        taken["step"]["reward"] = np.zeros(len(rows), np.float32)
        taken["step"]["reward"][ends - 1] = payoff
        taken["fragment"] = {
            "length": length.astype(np.int32),
            "seat": seat,
            "group": self._groups[fragments],
            "ending": np.full(len(fragments), Ending.TERMINATED, np.uint8),
        }
        self._lengths[fragments] = 0
        return taken

    def _block(self) -> Episodes:
        """All games that have ended, as one block."""
        sections = {
            section: {
                name: np.concatenate([part[section][name] for part in self._ended])
                for name in columns
            }
            for section, columns in self._ended[0].items()
        }
        self._ended, self._steps, self._wanted = [], 0, self._block_steps
        return Episodes(
            policy=self._policy,
            actor=self._author.actor,
            incarnation=self._author.incarnation,
            attempt=self._author.attempt,
            observation=sections["observation"],
            action=sections["action"],
            final={},
            initial={},
            **sections["step"],
            **sections["fragment"],
        )

    def _grow(self) -> None:
        """Make room for fragments twice as long."""
        for columns in self._open.values():
            for name, column in columns.items():
                row = column.shape[1:]
                held = column.reshape(len(self._lengths), self._capacity, *row)
                columns[name] = np.concatenate([held, np.zeros_like(held)], 1).reshape(-1, *row)
        self._capacity *= 2
