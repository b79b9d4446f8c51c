"""Decisions of games that are still being played, and the blocks made of those that have ended."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from troupe.episodes import Array, Columns, Ending, Episodes
from troupe.policies import ACTION, Choices, Decisions, Spaces
from troupe_actors.games import Turn, cut

_FIRST_LENGTH = 32
_NO_STEPS: dict[str, Array] = {
    "reward": np.empty(0, np.float32),
    "log_prob": np.empty(0, np.float32),
    "version": np.empty(0, np.uint32),
}
_NO_FRAGMENTS: dict[str, Array] = {
    "length": np.empty(0, np.int32),
    "seat": np.empty(0, np.uint8),
    "group": np.empty(0, np.int64),
    "ending": np.empty(0, np.uint8),
}

Sections = dict[str, dict[str, Array]]
"""Columns by section (observation, action, step, fragment, final, initial) and name."""


@dataclass(frozen=True, slots=True)
class Author:
    """Whose name a block bears; as in `Episodes`."""

    actor: str
    incarnation: int
    attempt: int


class Recorder:
    """Collects what one policy does, over T tables and the seats that it plays.

    A fragment is what one seat did in one game. The reward of a step is what its seat got until its
    next step, or the end. A seat that had nothing to decide leaves no fragment, and what it got
    before its first decision came of nothing that it did.
    """

    def __init__(
        self,
        policy: str,
        seats: Sequence[int],
        spaces: Spaces,
        *,
        tables: int,
        block_steps: int | None,
        author: Author,
        initial: Columns,
    ) -> None:
        """A block is made of `block_steps` steps of ended games; without that, only by `block`.

        `initial` is the recurrent state [1, ...] that every game begins with.
        """
        self._policy = policy
        self._spaces = spaces
        self._seats = np.asarray(seats, np.uint8)
        self._place = np.zeros(max(seats) + 1, np.int64)
        self._place[self._seats] = np.arange(len(seats))
        self._author = author
        self._initial = initial
        self._block_steps = block_steps
        # The first games that end are sent at once, so that a restarted actor is soon of use.
        self._wanted = None if block_steps is None else 1
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
        step: Columns = {
            "log_prob": choices.log_prob,
            "version": np.full(len(tables), version, np.uint32),
        }
        sections: tuple[tuple[str, Columns], ...] = (
            ("observation", decisions.observation),
            ("action", {ACTION: choices.action}),
            ("step", step),
        )
        for section, columns in sections:
            held = self._open.setdefault(section, {})
            for name, values in columns.items():
                if name not in held:
                    size = len(self._lengths) * self._capacity
                    held[name] = np.zeros((size, *values.shape[1:]), values.dtype)
                held[name][rows] = values
        if "reward" in self._open["step"]:
            self._open["step"]["reward"][rows] = 0.0
        self._groups[fragments] = groups
        self._lengths[fragments] += 1

    def finish(self, turn: Turn) -> Episodes | None:
        """End games and credit rewards; a block, once enough steps are in ended games."""
        own = turn.finished[:, None] * len(self._seats) + np.arange(len(self._seats))
        table, place = np.nonzero(self._lengths[own])
        if table.size:
            self._ended.append(self._take(own[table, place], table, self._seats[place], turn))
            self._steps += len(self._ended[-1]["step"]["reward"])
        if turn.reward is not None:
            self._credit(turn.reward)
        return self.block() if self._wanted is not None and self._steps >= self._wanted else None

    def block(self) -> Episodes:
        """All games that have ended, as one block; none leave one without steps."""
        sections: Sections = {"step": _NO_STEPS, "fragment": _NO_FRAGMENTS}
        if self._ended:
            sections = {
                section: {
                    name: np.concatenate([part[section][name] for part in self._ended])
                    for name in columns
                }
                for section, columns in self._ended[0].items()
            }
        self._ended, self._steps = [], 0
        self._wanted = self._block_steps
        step, fragment = sections["step"], sections["fragment"]
        return Episodes(
            policy=self._policy,
            actor=self._author.actor,
            incarnation=self._author.incarnation,
            attempt=self._author.attempt,
            observation=sections.get("observation", {}),
            action=sections.get("action", {}),
            reward=step["reward"],
            log_prob=step["log_prob"],
            version=step["version"],
            length=fragment["length"],
            seat=fragment["seat"],
            group=fragment["group"],
            ending=fragment["ending"],
            final=sections.get("final", {}),
            initial=sections.get("initial", {}),
        )

    def _take(
        self,
        fragments: NDArray[np.int64],
        game: NDArray[np.int64],
        seat: NDArray[np.uint8],
        turn: Turn,
    ) -> Sections:
        """Move N fragments out of the buffers; `game` [N] counts among those that have ended."""
        length = self._lengths[fragments]
        ends = np.cumsum(length)
        rows = np.arange(ends[-1])
        rows += np.repeat(fragments * self._capacity - (ends - length), length)
        taken = {
            section: {name: column[rows] for name, column in columns.items()}
            for section, columns in self._open.items()
        }
        reward = taken["step"].setdefault("reward", np.zeros(len(rows), np.float32))
        reward[ends - 1] += turn.payoff[game, seat]
        ending = np.full(len(fragments), Ending.TERMINATED, np.uint8)
        if turn.truncated is not None:
            ending[turn.truncated[game, seat]] = Ending.TRUNCATED
        taken["fragment"] = {
            "length": length.astype(np.int32),
            "seat": seat,
            "group": self._groups[fragments],
            "ending": ending,
        }
        if turn.final:
            taken["final"] = {
                name: cut(turn.final[name][game, seat], space)
                for name, space in self._spaces.observation.items()
            }
        taken["initial"] = {
            name: np.repeat(row, len(fragments), 0) for name, row in self._initial.items()
        }
        self._lengths[fragments] = 0
        return taken

    def _credit(self, reward: NDArray[np.float32]) -> None:
        """Add what seats got to the newest step of each, where it has one; `reward` is [T, seats]."""
        got = reward[:, self._seats].reshape(-1)
        fragments = np.flatnonzero((got != 0) & (self._lengths > 0))
        if not fragments.size:
            return
        held = self._open["step"]
        if "reward" not in held:
            held["reward"] = np.zeros(len(self._lengths) * self._capacity, np.float32)
        held["reward"][fragments * self._capacity + self._lengths[fragments] - 1] += got[fragments]

    def _grow(self) -> None:
        """Make room for fragments twice as long."""
        for columns in self._open.values():
            for name, column in columns.items():
                row = column.shape[1:]
                held = column.reshape(len(self._lengths), self._capacity, *row)
                columns[name] = np.concatenate([held, np.zeros_like(held)], 1).reshape(-1, *row)
        self._capacity *= 2
