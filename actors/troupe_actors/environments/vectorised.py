"""Environments that are vectorised already, in each of Gymnasium's ways to begin the next episode."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from troupe.episodes import Array, Columns
from troupe.errors import TroupeError, UserError
from troupe.policies import Spaces
from troupe_actors.environments.faults import (
    EnvironmentFaultError,
    Failures,
    MismatchError,
    Patience,
    WrongActionError,
    place,
    shown,
    unpack_reset,
    wrong_step,
)
from troupe_actors.environments.observations import first_not_finite
from troupe_actors.environments.serial import describe
from troupe_actors.environments.transition import Past, Seeds, Transition

Vector: TypeAlias = VectorEnv[Any, Any, Any]


class Vectorised:
    """The environments of one vector environment; see `Driver` for what its methods promise.

    Its episodes follow each other as it says itself:

    - SAME_STEP: its `final_obs` are the last observations.
    - NEXT_STEP: in the step after an end, the row is `skipped`; its action is ignored.
    - DISABLED: rows that ended are reset by mask.

    In the first two only the first episodes can be seeded: the later ones go on from there. If it
    fails, all rows are skipped and all begin anew.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Vector],
        patience: Patience,
        wait: Callable[[float], object],
    ) -> None:
        """Make it. `wait` is called with seconds before it is made anew.

        Raises:
            UserError: no policy can act in it, or it does not say how its episodes follow.
            EnvironmentFaultError: it cannot be made, again and again.
        """
        self.name = name
        self._make = make
        self._failures = Failures(patience, wait)
        self._steps = 0
        self._env = self._open()
        self.count = self._env.num_envs
        self._mode = _mode(name, self._env)
        self._layout, self._actions = describe(name, self._env, self.count, "single_")
        self.spaces = Spaces(self._layout.spaces, self._actions.space)
        self._each_seeded = isinstance(self._env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        self._seeds: Seeds | None = None
        self._episodes = np.zeros(self.count, np.int64)
        self._length = np.zeros(self.count, np.int64)
        self._return = np.zeros(self.count, np.float64)
        self._over = np.zeros(self.count, np.bool_)
        """Rows whose next step only begins an episode."""

    @property
    def episodes(self) -> NDArray[np.int64]:
        return self._episodes.copy()

    @property
    def restarts(self) -> int:
        return self._failures.total

    def reset(self, seeds: Seeds, episodes: Sequence[int] | None = None) -> Columns:
        self._seeds = seeds
        self._episodes[:] = episodes if episodes is not None else 0
        return self._start_all()

    def resume(self, seeds: Seeds, pasts: Sequence[Past]) -> Columns:
        raise UserError(
            f"environment {self.name!r}: it is vectorised, so its episodes cannot be begun one by "
            "one, as schedule: lockstep needs; make single environments, or use schedule: async"
        )

    def step(self, actions: Array) -> Transition:
        if self._seeds is None:
            raise ValueError("environments are reset before they are stepped")
        given = self._given(actions)
        self._steps += 1
        self._length += ~self._over
        try:
            result = self._env.step(given)
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything
            return self._restart(error)
        try:
            seen, gain, dead, stopped, info = result
        except (TypeError, ValueError):
            raise self._fault(0, str(wrong_step(result))) from None
        observation = self._filled(seen)
        reward, terminated, truncated = self._signals(gain, dead, stopped)
        self._return += reward
        return self._turn(observation, reward, terminated, truncated, info)

    def close(self) -> None:
        with suppress(Exception):
            self._env.close()

    def _turn(
        self,
        observation: dict[str, Array],
        reward: Array,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        info: Mapping[str, object],
    ) -> Transition:
        """The step as it was played, with the next episodes begun where that is due."""
        skipped = np.flatnonzero(self._over)
        over = terminated | truncated
        ended = np.flatnonzero(over)
        returns, lengths = self._return[ended], self._length[ended]
        final = {name: column[ended] for name, column in observation.items()}
        self._over = over if self._mode is AutoresetMode.NEXT_STEP else np.zeros_like(self._over)
        if len(ended):
            self._failures.sound()
            self._return[ended] = 0.0
            if self._mode is AutoresetMode.SAME_STEP:
                final = self._final(ended, info)
            self._episodes[ended] += 1
            self._length[ended] = 0
            if self._mode is AutoresetMode.DISABLED:
                try:
                    result = self._reset_some(over)
                except Exception as error:  # noqa: BLE001 - foreign code may raise anything
                    return self._restart(error)
                observation = self._first(result)
        return Transition(
            observation, reward.astype(np.float32), terminated, truncated & ~terminated,
            skipped, ended, final, returns, lengths,
        )  # fmt: skip

    def _final(self, ended: NDArray[np.int64], info: Mapping[str, object]) -> dict[str, Array]:
        final = self._layout.empty(len(ended))
        kept = info.get("final_obs")
        for index, row in enumerate(ended.tolist()):
            if not isinstance(kept, np.ndarray) or kept[row] is None:
                raise self._fault(row, "the episode ended, but info has no 'final_obs' of it")
            try:
                self._layout.put(final, index, kept[row])
            except MismatchError as mismatch:
                raise self._fault(row, f"final {mismatch}") from None
        unfit = self._layout.unfit(final)
        if unfit:
            raise self._fault(int(ended[unfit[0]]), f"final {unfit[1]}")
        return final

    def _signals(
        self, gain: object, dead: object, stopped: object
    ) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_]]:
        row = (self.count,)
        if not isinstance(gain, np.ndarray) or gain.shape != row or gain.dtype.kind not in "fiu":
            raise self._fault(0, f"reward is {shown(gain)}, not an array of numbers {row}")
        for name, flags in (("terminated", dead), ("truncated", stopped)):
            if not isinstance(flags, np.ndarray) or flags.shape != row or flags.dtype.kind != "b":
                raise self._fault(0, f"{name} is {shown(flags)}, not an array of bools {row}")
        assert isinstance(dead, np.ndarray)
        assert isinstance(stopped, np.ndarray)
        reward = np.where(self._over, 0.0, gain)
        wrong = first_not_finite(reward.astype(np.float32))
        if wrong is not None:
            raise self._fault(wrong, f"reward is not finite: {reward[wrong]}")
        return reward, dead & ~self._over, stopped & ~self._over

    def _filled(self, seen: object) -> dict[str, Array]:
        observation = self._layout.empty(self.count)
        try:
            self._layout.fill(observation, seen)
        except MismatchError as mismatch:
            raise self._fault(0, str(mismatch)) from None
        unfit = self._layout.unfit(observation)
        if unfit:
            raise self._fault(*unfit)
        return observation

    def _given(self, actions: Array) -> Array:
        try:
            return self._actions.batch(actions)
        except WrongActionError as wrong:
            raise self._fault(wrong.row, str(wrong)) from None

    def _restart(self, error: Exception) -> Transition:
        """A step in which nothing was played, since it failed: all rows begin anew."""
        self._again(error, int(self._length[0]))
        rows, never = np.arange(self.count), np.zeros(self.count, np.bool_)
        none = np.empty(0, np.int64)
        return Transition(
            self._start_all(), np.zeros(self.count, np.float32), never, never.copy(),
            rows, none, self._layout.empty(0), np.empty(0), none,
        )  # fmt: skip

    def _again(self, error: Exception, step: int) -> None:
        where = place(self.name, 0, step, int(self._episodes[0]))
        self._failures.failed(error, where, self._steps)
        self.close()
        self._env = self._open()
        self._episodes += 1

    def _start_all(self) -> dict[str, Array]:
        self._length[:] = 0
        self._return[:] = 0.0
        self._over[:] = False
        while True:
            try:
                result = self._env.reset(seed=self._seeds_of(range(self.count)))
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything
                self._again(error, 0)
                continue
            return self._first(result)

    def _reset_some(self, over: NDArray[np.bool_]) -> object:
        """Reset the rows in `over` alone."""
        seed = self._seeds_of(np.flatnonzero(over).tolist()) if self._each_seeded else None
        return self._env.reset(seed=seed, options={"reset_mask": over.copy()})

    def _first(self, result: object) -> dict[str, Array]:
        try:
            return self._filled(unpack_reset(result))
        except MismatchError as mismatch:
            raise self._fault(0, str(mismatch)) from None

    def _seeds_of(self, rows: Sequence[int]) -> Any:
        """A seed for each of these rows, or one for all where the environment takes no more."""
        assert self._seeds is not None
        if not self._each_seeded:
            return self._seeds.of(0, int(self._episodes[0]))
        seeds: list[int | None] = [None] * self.count
        for row in rows:
            seeds[row] = self._seeds.of(row, int(self._episodes[row]))
        return seeds

    def _fault(self, row: int, what: str) -> EnvironmentFaultError:
        where = place(self.name, row, int(self._length[row]), int(self._episodes[row]))
        return EnvironmentFaultError(f"{where}: {what}")

    def _open(self) -> Vector:
        while True:
            try:
                return self._make()
            except TroupeError:
                raise
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything
                where = f"environment {self.name!r}, being made"
                self._failures.failed(error, where, self._steps)


def _mode(name: str, env: Vector) -> AutoresetMode:
    """How its episodes follow each other.

    Raises:
        UserError: it does not say.
    """
    said = env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(said)
    except ValueError:
        raise UserError(
            f"environment {name!r}: its metadata['autoreset_mode'] is {said!r}, so how its episodes "
            "follow each other is not known; set it to a gymnasium.vector.AutoresetMode"
        ) from None
