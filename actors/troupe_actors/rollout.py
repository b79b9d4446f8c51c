"""Environments side by side: the same number of steps in each of them becomes one block."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from gymnasium import spaces as gym
from numpy.typing import NDArray

from troupe.episodes import Array, Columns, Ending, Episodes
from troupe.policies import ACTION, Decisions
from troupe_actors.environments import Driver, Transition, nothing_done
from troupe_actors.recorder import Author
from troupe_actors.selfplay import Player

_ROW_SHIFT = 40
"""A fragment's group is its environment's row, shifted by this, and the number of its episode."""


def group_of(row: int, episode: int) -> int:
    """The number of what the fragments of one episode of one environment have in common."""
    return row << _ROW_SHIFT | episode


def unpacked(actions: Array, space: gym.Space[NDArray[np.generic]]) -> Array:
    """[n, ...] of a policy's choices, as `Driver.step` takes them."""
    if isinstance(space, gym.MultiBinary):
        bits = math.prod(space.shape)
        return np.unpackbits(actions, axis=1, count=bits, bitorder="little")
    return actions


class Standing(NamedTuple):
    """Where E environments stand, and their policy with them."""

    observation: Columns
    """By name, [E, ...]: what is to be acted on next."""
    state: Columns
    """By name, [E, ...]: the recurrent state, where the policy has one."""


class Rollout(NamedTuple):
    """What came of R steps in each of E environments."""

    block: Episodes
    returns: NDArray[np.float64]
    """[K]: sums of the rewards of the episodes that ended, undiscounted."""
    lengths: NDArray[np.int64]
    """[K]: steps of those episodes."""


class _Cut(NamedTuple):
    """A fragment of a row: from where the one before it ended (or the row began) to `end`."""

    start: int
    end: int
    episode: int
    ending: Ending
    final: Columns
    """By name, [...]: the observation after it."""


class EnvironmentLoop:
    """One policy acting in the E environments of a driver."""

    def __init__(self, driver: Driver, player: Player, steps: int, author: Author) -> None:
        """`steps` is R, the steps of a rollout in every environment."""
        self._driver = driver
        self._player = player
        self._steps = steps
        self._author = author
        # An environment lists no actions: its space says what may be done.
        self._unlisted = nothing_done(driver.spaces.action), np.zeros(driver.count + 1, np.int64)
        self._fresh = player.acting.initial(1)
        self.standing = Standing({}, {})
        """Where the next rollout goes on."""

    def begin(self, observation: Columns) -> None:
        """Go on from first observations, [E, ...], of the driver, which was reset."""
        self.standing = Standing(observation, self._player.acting.initial(self._driver.count))

    def play(self, random: np.random.Generator, exploration: float) -> Rollout:
        """Act R times in every environment.

        Raises:
            EnvironmentFaultError: as `Driver.step`.
        """
        driver, act = self._driver, self._player.acting.act
        space = driver.spaces.action
        observation, state = self.standing
        episodes = driver.episodes
        record = _Record(driver.count, self._steps, self._fresh, state)
        for at in range(self._steps):
            decisions = Decisions(observation, *self._unlisted, state)
            choices = act(decisions, random, exploration)
            met = driver.step(unpacked(choices.action, space))
            record.put(at, decisions, choices.action, choices.log_prob, met.reward)
            state = choices.state
            if met.ended.size or met.skipped.size:
                record.end(at, met, observation, episodes)
                episodes = driver.episodes
                state = self._begun(state, met)
            observation = met.observation
        self.standing = Standing(observation, state)
        block = record.block(self._player, self._author, observation, episodes)
        return Rollout(block, *record.scores())

    def _begun(self, state: Columns, met: Transition) -> Columns:
        """The recurrent state with nothing remembered where an episode began."""
        if not self._fresh:
            return state
        rows = np.concatenate([met.ended, met.skipped])
        begun = {name: column.copy() for name, column in state.items()}
        for name, column in begun.items():
            column[rows] = self._fresh[name]
        return begun


class _Record:
    """The columns [E, R, ...] of one rollout, and where its fragments end."""

    def __init__(self, rows: int, steps: int, fresh: Columns, state: Columns) -> None:
        self._rows, self._steps = rows, steps
        self._fresh = fresh
        self._carried = {name: column.copy() for name, column in state.items()}
        self._observation: dict[str, Array] = {}
        self._action: Array = np.empty(0)
        self._reward = np.empty((rows, steps), np.float32)
        self._log_prob = np.empty((rows, steps), np.float32)
        self._start = [0] * rows
        self._cuts: list[list[_Cut]] = [[] for _ in range(rows)]
        self._skipped: list[tuple[int, int]] = []
        self._scores: list[Transition] = []

    def put(
        self,
        at: int,
        decisions: Decisions,
        action: Array,
        log_prob: NDArray[np.float32],
        reward: NDArray[np.float32],
    ) -> None:
        """Take down step `at` of every row."""
        if at == 0:
            shape = (self._rows, self._steps)
            self._action = np.empty((*shape, *action.shape[1:]), action.dtype)
            for name, column in decisions.observation.items():
                self._observation[name] = np.empty((*shape, *column.shape[1:]), column.dtype)
        for name, column in decisions.observation.items():
            self._observation[name][:, at] = column
        self._action[:, at] = action
        self._log_prob[:, at] = log_prob
        self._reward[:, at] = reward

    def end(self, at: int, met: Transition, acted_on: Columns, episodes: NDArray[np.int64]) -> None:
        """End fragments in step `at`: of episodes that ended, and before a step that led nowhere."""
        if met.ended.size:
            self._scores.append(met)
        for index, row in enumerate(met.ended.tolist()):
            ending = Ending.TERMINATED if met.terminated[row] else Ending.TRUNCATED
            self._cut(row, at + 1, int(episodes[row]), ending, _row(met.final, index))
        for row in met.skipped.tolist():
            self._skipped.append((row, at))
            self._cut(row, at, int(episodes[row]), Ending.CUT, _row(acted_on, row))
            self._start[row] = at + 1

    def block(
        self, player: Player, author: Author, observation: Columns, episodes: NDArray[np.int64]
    ) -> Episodes:
        """All steps, laid end to end row by row; `observation` is what is seen after the last."""
        for row in range(self._rows):
            self._cut(row, self._steps, int(episodes[row]), Ending.CUT, _row(observation, row))
        cuts = [(row, cut) for row, cuts in enumerate(self._cuts) for cut in cuts]
        played = self._played()
        reward = _flat(self._reward, played)
        return Episodes(
            policy=player.policy,
            actor=author.actor,
            incarnation=author.incarnation,
            attempt=author.attempt,
            observation={n: _flat(column, played) for n, column in self._observation.items()},
            action={ACTION: _flat(self._action, played)},
            reward=reward,
            log_prob=_flat(self._log_prob, played),
            version=np.full(len(reward), player.version, np.uint32),
            length=np.array([cut.end - cut.start for _, cut in cuts], np.int32),
            seat=np.zeros(len(cuts), np.uint8),
            group=np.array([group_of(row, cut.episode) for row, cut in cuts], np.int64),
            ending=np.array([cut.ending for _, cut in cuts], np.uint8),
            final={
                name: _stack([cut.final[name] for _, cut in cuts], column)
                for name, column in observation.items()
            },
            initial={
                name: _stack(
                    [self._carried[name][row] if cut.start == 0 else one[0] for row, cut in cuts],
                    one,
                )
                for name, one in self._fresh.items()
            },
        )

    def scores(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Returns and lengths of the episodes that ended."""
        if not self._scores:
            return np.empty(0, np.float64), np.empty(0, np.int64)
        returns = np.concatenate([met.returns for met in self._scores])
        return returns, np.concatenate([met.lengths for met in self._scores])

    def _cut(self, row: int, end: int, episode: int, ending: Ending, final: Columns) -> None:
        """End the row's open fragment before step `end`, if it has any steps."""
        start = self._start[row]
        if end > start:
            self._cuts[row].append(_Cut(start, end, episode, ending, final))
            self._start[row] = end

    def _played(self) -> NDArray[np.bool_] | None:
        """[E, R]: the steps that led somewhere; None where all did."""
        if not self._skipped:
            return None
        played = np.ones((self._rows, self._steps), np.bool_)
        for row, at in self._skipped:
            played[row, at] = False
        return played


def _row(columns: Columns, index: int) -> Columns:
    return {name: column[index] for name, column in columns.items()}


def _flat(column: Array, played: NDArray[np.bool_] | None) -> Array:
    """[E, R, ...] -> [S, ...], row by row."""
    return column.reshape(-1, *column.shape[2:]) if played is None else column[played]


def _stack(rows: Sequence[Array], like: Array) -> Array:
    """[N, ...]; `like` [n, ...] is what a row looks like where there are none."""
    return np.stack(rows) if rows else like[:0]
