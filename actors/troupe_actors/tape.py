"""What environments did since their episodes began, so that another process can take them there again.

Copies of environments can lose state without a word, so none are made: an episode's seed and its
actions lead to the same state again, and a hash of what is seen there shows that they did.
"""

from collections.abc import Mapping

import numpy as np
import safetensors.numpy
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError

from troupe.codec import MAX_RESUME
from troupe.episodes import Array, Columns, Episodes
from troupe.errors import TroupeError, UserError
from troupe.policies import ACTION
from troupe_actors.environments import Driver, Past, RepeatError, Seeds, nothing_done
from troupe_actors.rollout import Standing, group_of, unpacked

_STATE = "state."
"""Prefix of recurrent states among the tensors."""


class Tape:
    """The actions of E environments since the beginnings of their episodes."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._pasts = [Past(0, nothing_done(driver.spaces.action))] * driver.count

    def begin(self, seeds: Seeds) -> Columns:
        """Begin the first episode in every environment; by name, [E, ...], what is seen.

        Raises:
            UserError, EnvironmentFaultError: as `Driver.resume`.
        """
        return self._driver.resume(seeds, self._pasts)

    def add(self, block: Episodes) -> None:
        """Take in a rollout's actions, as they were passed to the driver."""
        ends = np.cumsum(block.length)
        played = {
            group: slice(end - length, end)
            for group, length, end in zip(
                block.group.tolist(), block.length.tolist(), ends.tolist(), strict=True
            )
        }
        for row, episode in enumerate(self._driver.episodes.tolist()):
            past = self._pasts[row]
            before = past.actions if past.episode == episode else past.actions[:0]
            new = block.action[ACTION][played.get(group_of(row, episode), slice(0))]
            taken = unpacked(new, self._driver.spaces.action)
            self._pasts[row] = Past(episode, np.concatenate([before, taken]))

    def write(self, standing: Standing) -> bytes:
        """Everything that `read` needs.

        Raises:
            UserError: an episode is too long to travel.
        """
        written = safetensors.numpy.save(
            {
                "episode": np.array([past.episode for past in self._pasts]),
                "length": np.array([len(past.actions) for past in self._pasts]),
                "action": np.concatenate([past.actions for past in self._pasts]),
                "seen": _hashes(standing.observation, len(self._pasts)),
                **{_STATE + n: np.ascontiguousarray(c) for n, c in standing.state.items()},
            }
        )
        if len(written) > MAX_RESUME:
            longest = max(len(past.actions) for past in self._pasts)
            raise UserError(
                f"environment {self._driver.name!r}: after {longest:,} steps of an episode its "
                f"actions take more than the {MAX_RESUME:,} bytes that lockstep keeps to repeat "
                "them; set environment.options.max_episode_steps, or use schedule: async"
            )
        return written

    def read(self, written: bytes, seeds: Seeds) -> Standing:
        """Take the environments where they stood.

        Raises:
            RepeatError: they do not come to what they showed before.
            UserError: they cannot be begun one by one, or are not as many.
            EnvironmentFaultError: as `Driver.reset`.
            TroupeError: these bytes were not written by `write`.
        """
        tensors = _load(written)
        bounds = np.cumsum(tensors["length"])[:-1]
        actions = np.split(tensors["action"], bounds)
        self._pasts = [
            Past(episode, taken)
            for episode, taken in zip(tensors["episode"].tolist(), actions, strict=True)
        ]
        if len(self._pasts) != self._driver.count:
            raise UserError(
                f"actors.environments: {self._driver.count}, but this run was played with "
                f"{len(self._pasts)}; leave it as it was, or start a new run"
            )
        observation = self._driver.resume(seeds, self._pasts)
        hashes = _hashes(observation, self._driver.count)
        for row in np.flatnonzero(hashes != tensors["seen"]).tolist():
            past = self._pasts[row]
            steps = f"{len(past.actions)} steps into episode {past.episode}"
            raise RepeatError.at(self._driver.name, row, f"{steps} it shows something else")
        state = {n.removeprefix(_STATE): c for n, c in tensors.items() if n.startswith(_STATE)}
        return Standing(observation, state)


def _load(written: bytes) -> Mapping[str, Array]:
    try:
        tensors: Mapping[str, Array] = safetensors.numpy.load(written)
    except (SafetensorError, ValueError) as error:
        raise TroupeError(
            f"lockstep: what an actor left to resume from is damaged: {error}"
        ) from None
    missing = {"episode", "length", "action", "seen"} - tensors.keys()
    if missing or int(tensors["length"].sum()) != len(tensors["action"]):
        raise TroupeError("lockstep: what an actor left to resume from is not of this version")
    return tensors


def _hashes(columns: Columns, rows: int) -> NDArray[np.uint64]:
    """[E]: XXH3 of each row of all columns."""
    hashes = np.empty(rows, np.uint64)
    for row in range(rows):
        state = xxhash.xxh3_64()
        for column in columns.values():
            state.update(column[row].tobytes())
        hashes[row] = state.intdigest()
    return hashes
