"""Environments made one by one and stepped in a plain loop, faster than a vector environment."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupe.episodes import Array, Columns
from troupe.errors import UserError
from troupe.policies import Spaces
from troupe_actors.environments.actions import Actions
from troupe_actors.environments.faults import (
    EnvironmentFaultError,
    Failures,
    MismatchError,
    Patience,
    RepeatError,
    WrongActionError,
    check_signals,
    told,
    wrong_step,
)
from troupe_actors.environments.making import make
from troupe_actors.environments.observations import Layout
from troupe_actors.environments.slot import Slot
from troupe_actors.environments.transition import Past, Seeds, Transition

_MOST_REWARD = float(np.finfo(np.float32).max)
_NUMBERS = frozenset([float, np.float64, np.float32])  # nearly all; others are looked at
_NO_ROWS = np.empty(0, np.int64)
_NO_RETURNS = np.empty(0, np.float64)


class _Signals(NamedTuple):
    """What came of one round of steps, besides observations."""

    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    ended: list[int]
    failed: list[tuple[int, Exception]]


class Environments:
    """E environments of one name; see `Driver` for what its methods promise."""

    def __init__(
        self,
        name: str,
        options: Mapping[str, object],
        count: int,
        *,
        patience: Patience | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        """Make them. `wait` is called with seconds before a failed one is restarted.

        Raises:
            UserError: there is no such environment, or no policy can act in it.
            EnvironmentFaultError: it cannot be made, again and again.
        """
        self.name = name
        self.count = count
        opening = partial(make, name, options)
        patience = patience or Patience()
        self._slots = [Slot(name, row, opening, Failures(patience, wait)) for row in range(count)]
        self._layout, self._actions = describe(name, self._slots[0].env, count)
        self.spaces = Spaces(self._layout.spaces, self._actions.space)
        self._seeds: Seeds | None = None
        self._steps = 0
        self._began = np.zeros(count, np.int64)
        """Where `_steps` stood when each row's episode began."""
        self._return = [0.0] * count
        self._no_final = self._layout.empty(0)

    @property
    def episodes(self) -> NDArray[np.int64]:
        return np.array([slot.episode for slot in self._slots])

    @property
    def restarts(self) -> int:
        return sum(slot.failures.total for slot in self._slots)

    def reset(self, seeds: Seeds, episodes: Sequence[int] | None = None) -> Columns:
        self._seeds = seeds
        observation = self._layout.empty(self.count)
        for row, slot in enumerate(self._slots):
            slot.episode = episodes[row] if episodes is not None else 0
            self._start(row, observation)
        return observation

    def resume(self, seeds: Seeds, pasts: Sequence[Past]) -> Columns:
        observation = self.reset(seeds, [past.episode for past in pasts])
        for row, past in enumerate(pasts):
            if self._slots[row].episode != past.episode:
                raise RepeatError.at(
                    self.name, row, f"episode {past.episode} cannot be begun again"
                )
            self._repeat(row, past.actions, observation)
        return observation

    def step(self, actions: Array) -> Transition:
        if self._seeds is None:
            raise ValueError("environments are reset before they are stepped")
        self._steps += 1
        observation = self._layout.empty(self.count)
        signals = self._step_each(self._given(actions), observation)
        skipped = self._restart(signals.failed, observation) if signals.failed else _NO_ROWS
        unfit = self._layout.unfit(observation)
        if unfit:
            raise self._fault(*unfit)
        if not signals.ended:
            ended, final, returns, lengths = _NO_ROWS, self._no_final, _NO_RETURNS, _NO_ROWS
        else:
            ended = np.array(signals.ended)
            final = {name: column[ended] for name, column in observation.items()}
            returns = np.array([self._return[row] for row in signals.ended])
            lengths = self._steps - self._began[ended]
            self._start_next(signals.ended, observation)
        return Transition(
            observation, signals.reward, signals.terminated, signals.truncated,
            skipped, ended, final, returns, lengths,
        )  # fmt: skip

    def close(self) -> None:
        for slot in self._slots:
            slot.close()

    def _given(self, actions: Array) -> Array:
        try:
            return self._actions.batch(actions)
        except WrongActionError as wrong:
            raise self._fault(wrong.row, str(wrong)) from None

    def _step_each(self, given: Array, observation: Mapping[str, Array]) -> _Signals:
        reward = np.zeros(self.count, np.float32)
        terminated = np.zeros(self.count, np.bool_)
        truncated = np.zeros(self.count, np.bool_)
        ended: list[int] = []
        failed: list[tuple[int, Exception]] = []
        put = self._layout.put
        for row, (slot, action) in enumerate(zip(self._slots, given, strict=True)):
            try:
                result = slot.env.step(action)
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything
                failed.append((row, error))
                continue
            try:
                seen, gain, over, stopped, _ = result
            except (TypeError, ValueError):
                raise self._fault(row, str(wrong_step(result))) from None
            try:
                if (
                    type(gain) not in _NUMBERS
                    or type(over) is not bool
                    or type(stopped) is not bool
                ):
                    check_signals(gain, over, stopped)
                put(observation, row, seen)
            except MismatchError as mismatch:
                raise self._fault(row, str(mismatch)) from None
            number = float(gain)
            if not -_MOST_REWARD <= number <= _MOST_REWARD:
                raise self._fault(row, f"reward is not finite in float32: {number}")
            reward[row] = number
            self._return[row] += number
            if over or stopped:
                ended.append(row)
                terminated[row] = over
                truncated[row] = not over
        return _Signals(reward, terminated, truncated, ended, failed)

    def _repeat(self, row: int, actions: Array, observation: Mapping[str, Array]) -> None:
        """Take these steps, [n, ...], in one environment, and write what is seen after them."""
        env, last = self._slots[row].env, len(actions)
        for number, action in enumerate(self._actions.convert(actions), start=1):
            try:
                seen, gain, over, stopped, _ = env.step(action)
            except Exception as error:
                raise RepeatError.at(
                    self.name, row, f"it raised {told(error)} in step {number}"
                ) from error
            if over or stopped:
                raise RepeatError.at(
                    self.name, row, f"its episode ended in step {number} of {last}"
                )
            self._return[row] += float(gain)
            if number == last:
                self._layout.put(observation, row, seen)
        self._began[row] -= last

    def _restart(
        self, failed: Sequence[tuple[int, Exception]], observation: Mapping[str, Array]
    ) -> NDArray[np.int64]:
        for row, error in failed:
            self._slots[row].restart(error, self._step_of(row), self._steps)
            self._start(row, observation)
        return np.array([row for row, _ in failed])

    def _start_next(self, ended: Sequence[int], observation: Mapping[str, Array]) -> None:
        for row in ended:
            self._slots[row].failures.sound()
            self._slots[row].episode += 1
            self._start(row, observation)

    def _start(self, row: int, observation: Mapping[str, Array]) -> None:
        """Begin the row's episode, and write its first observation."""
        assert self._seeds is not None
        first = self._slots[row].start(self._seeds, self._steps)
        self._began[row] = self._steps
        self._return[row] = 0.0
        try:
            self._layout.put(observation, row, first)
        except MismatchError as mismatch:
            raise self._fault(row, str(mismatch)) from None
        unfit = self._layout.unfit({k: column[row : row + 1] for k, column in observation.items()})
        if unfit:
            raise self._fault(row, unfit[1])

    def _fault(self, row: int, what: str) -> EnvironmentFaultError:
        return self._slots[row].fault(what, self._step_of(row))

    def _step_of(self, row: int) -> int:
        return self._steps - int(self._began[row])


def describe(name: str, env: object, count: int, prefix: str = "") -> tuple[Layout, Actions]:
    """What `count` environments like this one see and do; `prefix` is that of its spaces' names.

    Raises:
        UserError: it has no spaces, or such as no policy reads or acts in.
    """
    try:
        seen = getattr(env, f"{prefix}observation_space")
        done = getattr(env, f"{prefix}action_space")
    except AttributeError as error:
        raise UserError(f"environment {name!r}: {error}") from None
    try:
        return Layout(seen), Actions(done, count)
    except UserError as error:
        raise UserError(f"environment {name!r}: {error}") from None
