"""One PettingZoo environment among many: stepped, watched, and made anew where it fails."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, cast

from troupe.episodes import Array
from troupe.errors import TroupeError
from troupe_actors.environments.faults import (
    EnvironmentFaultError,
    Failures,
    MismatchError,
    WrongActionError,
    check_signals,
    place,
)
from troupe_actors.games.pettingzoo.making import Env
from troupe_actors.games.pettingzoo.seats import Seats

_MOST_REWARD: Final = 3.4e38  # of float32
_SEED_MASK: Final = 0x7FFF_FFFF  # what environments written in C take

Views = Sequence[Mapping[str, Array]]


class Table:
    """An environment and the game that it plays.

    A game is over when no agent is left. What an agent sees is written into its row of the columns
    that all tables share, when it is to move and when it is truncated; so that row is the last that
    it has seen.
    """

    def __init__(
        self,
        name: str,
        row: int,
        make: Callable[[], Env],
        seats: Seats,
        views: Views,
        failures: Failures,
    ) -> None:
        self.number = row
        """Of the game."""
        self.failures = failures
        self.moves = 0
        """Made in this game, by any agent."""
        self.seat = 0
        """Who is to move."""
        self.legal: Sequence[int] = ()
        """What the agent to move may do, where its actions are listed."""
        self.gain = [0.0] * len(seats)
        """What each seat has got since `collect`."""
        self.truncated = [False] * len(seats)
        """Seats that were stopped from outside."""
        self.over = False
        self._name = name
        self.row = row
        self._make = make
        self._seats = seats
        self._views = views
        self._all = 0
        """Moves in all games."""
        self.env = self._open()

    def begin(self, seed: int) -> bool:
        """Begin the game; False where that failed and the environment was made anew.

        Raises:
            EnvironmentFaultError: it fails too often in a row, or breaks its own spaces.
        """
        self.moves = 0
        self.gain = [0.0] * len(self._seats)
        self.truncated = [False] * len(self._seats)
        for view in self._views:
            for column in view.values():
                column[self.row] = 0
        return self._try(partial(self._reset, seed & _SEED_MASK)) and self._try(self._look)

    def step(self, action: Array | int) -> bool:
        """Let the agent to move act; False where that failed, which ends the game.

        Raises:
            EnvironmentFaultError: it fails too often in a row, or breaks its own spaces.
        """
        try:
            given = self._seats.each[self.seat].given(action)
        except WrongActionError as wrong:
            raise self.fault(str(wrong)) from None
        self.moves += 1
        self._all += 1
        return self._try(partial(self._act, given)) and self._try(self._look)

    def stop(self) -> bool:
        """Truncate the game; False where that failed, which ends it too."""
        return self._try(self._truncate_all)

    def collect(self) -> list[float]:
        """What each seat has got since the last call."""
        gain, self.gain = self.gain, [0.0] * len(self._seats)
        return gain

    def fault(self, what: str, seat: int | None = None) -> EnvironmentFaultError:
        """The error that says `what` is wrong with this environment now."""
        where = place(self._name, self.row, self.moves, self.number)
        agent = self._seats.each[self.seat if seat is None else seat].agent
        return EnvironmentFaultError(f"{where}, seat {agent}: {what}")

    def close(self) -> None:
        """Let go of the environment, whatever it says."""
        with suppress(Exception):
            self.env.close()

    def _try(self, ask: Callable[[], None]) -> bool:
        """Ask something of the environment; if it fails, the game ends as if stopped from outside."""
        try:
            ask()
        except MismatchError as mismatch:
            raise self.fault(str(mismatch)) from None
        except TroupeError:
            raise
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything
            where = place(self._name, self.row, self.moves, self.number)
            agent = self._seats.each[self.seat].agent
            self.failures.failed(error, f"{where}, seat {agent}", self._all)
            self.close()
            self.env = self._open()
            self._end([True] * len(self._seats))
            return False
        return True

    def _reset(self, seed: int) -> None:
        self.env.reset(seed=seed)
        self.over = not self.env.agents

    def _act(self, action: object) -> None:
        self.env.step(action)
        if self._take():
            self._bury()

    def _look(self) -> None:
        """Find who is to move and what they see."""
        if self.over:
            self.failures.sound()
            self._end(self.truncated)
            return
        self.seat = self._index(self.env.agent_selection)
        seat = self._seats.each[self.seat]
        self.legal = seat.put(self.env, self._views[self.seat], self.row)
        if seat.count and not self.legal:
            raise MismatchError("action_mask is all zeros: nothing is legal")

    def _take(self) -> bool:
        """Add up the rewards of a step, and see who was truncated in it; whether anyone is done."""
        env, done = self.env, False
        # Each is asked for once: wrappers hand such a question down one by one.
        rewards, dead, stopped = env.rewards, env.terminations, env.truncations
        for agent, reward in rewards.items():
            index = self._index(agent)
            try:
                check_signals(reward, dead[agent], stopped[agent])
            except MismatchError as mismatch:
                raise MismatchError(f"{mismatch}, for {agent}") from None
            got = float(cast(float, reward))
            if not -_MOST_REWARD <= got <= _MOST_REWARD:
                raise MismatchError(f"reward is not finite in float32: {got}, for {agent}")
            self.gain[index] += got
            if dead[agent] or stopped[agent]:
                done = True
                if not dead[agent] and not self.truncated[index]:
                    self._truncate(index)
        return done

    def _bury(self) -> None:
        """Make the empty moves of agents that are done, until one is to move that is not."""
        env = self.env
        for _ in range(2 * len(self._seats) + 1):
            self.over = not env.agents
            if self.over:
                return
            agent = env.agent_selection
            if not (env.terminations[agent] or env.truncations[agent]):
                return
            env.step(None)
        raise MismatchError(f"{env.agent_selection} is done, but does not leave the game")

    def _truncate_all(self) -> None:
        for agent in list(self.env.agents):
            self._truncate(self._index(agent))
        self._end(self.truncated)

    def _truncate(self, index: int) -> None:
        self._seats.each[index].put(self.env, self._views[index], self.row)
        self.truncated[index] = True

    def _end(self, truncated: list[bool]) -> None:
        self.over = True
        self.legal = ()
        self.truncated = truncated
        for view, seat in zip(self._views, self._seats.each, strict=True):
            seat.allow_all(view, self.row)

    def _index(self, agent: str) -> int:
        try:
            return self._seats.index[agent]
        except KeyError:
            raise MismatchError(f"{agent!r} is not one of possible_agents") from None

    def _open(self) -> Env:
        while True:
            try:
                return self._make()
            except TroupeError:
                raise
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything
                where = f"environment {self._name!r}, slot {self.row}, being made"
                self.failures.failed(error, where, self._all)
