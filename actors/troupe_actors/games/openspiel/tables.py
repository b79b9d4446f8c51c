"""Many tables of one OpenSpiel game, played together."""

from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
import pyspiel
from numpy.typing import NDArray

from troupe import seeding
from troupe.episodes import Columns
from troupe.errors import TroupeError
from troupe_actors.games import WAIT, Turn
from troupe_actors.games.openspiel.chance import Uniforms
from troupe_actors.games.openspiel.stages import Observer, Stage, Stages, drawn, nowhere

MOST_EMPTY: Final = 1000
"""Games in a row in which nobody has a choice, before that is an error."""


class _End(NamedTuple):
    """The end of a game in this call."""

    table: int
    payoff: Sequence[float]
    stage: Stage
    """The last; where it has legal moves, the game was truncated."""


class Tables:
    """T tables of an OpenSpiel game, advanced together; they keep to `troupe_actors.games.Tables`.

    Table t plays the deals t, t + T, ... of the seed. A game without any decision, since all its
    moves were forced, is not told of.
    """

    def __init__(
        self,
        game: "pyspiel.Game",
        observe: Observer,
        count: int,
        seed: int,
        *,
        skip_forced: bool,
        max_moves: int | None,
    ) -> None:
        """Deal `count` tables.

        Raises:
            ValueError: `count` is not positive.
            TroupeError: no game has a decision.
        """
        if count < 1:
            raise ValueError(f"{count} tables: at least one is needed")
        self.decisions = 0
        self.forced = 0
        self._name = str(game)
        self._seats = game.num_players()
        self._actions = game.num_distinct_actions()
        self._seed = seed
        self._skip_forced = skip_forced
        self._max_moves = max_moves
        self._endless = True
        model = game.get_type().reward_model
        self._pays_between = model == pyspiel.GameType.RewardModel.REWARDS
        self._observe = observe
        self._dynamics = Stages(game, observe, pays_between=self._pays_between)
        self._nothing = (0.0,) * self._seats
        self._nowhere = nowhere(observe.size)
        self._moves = [0] * count
        self._paid: list[Sequence[float]] = [self._nothing] * count
        self._uniform = [Uniforms(0)] * count
        self._ends: list[_End] = []
        self.done = np.zeros(count, np.bool_)
        """[T]: tables that play no more, after `deal`; valid until the next call."""
        # Views that every `Turn` shares.
        self._group = np.arange(count)
        self._offsets = np.zeros(count + 1, np.int64)
        self._state = np.zeros((count, observe.size), np.float32)
        self._reward = np.zeros((count, self._seats), np.float32)
        self._rows = np.arange(count)
        self._stages = [self._deal_next(t) for t in range(count)]

    def turn(self) -> Turn:
        """Where the tables stand now; nothing is finished."""
        self._reward[:] = 0.0
        return self._turn()

    def play(self, choice: NDArray[np.int64]) -> Turn:
        """Make one move a table, as `troupe_actors.games.Tables` says.

        Tables that are done take no part; their choice is not looked at.

        Raises:
            ValueError: a choice is out of range; no table has moved.
        """
        chosen: list[int] = choice.tolist()
        for t, (index, stage) in enumerate(zip(chosen, self._stages, strict=True)):
            if not 0 <= index < len(stage.legal) and index != WAIT and not self.done[t]:
                raise ValueError(
                    f"choice {index} on table {t}, which has {len(stage.legal)} legal moves"
                )
        self._reward[:] = 0.0
        for t, index in enumerate(chosen):
            stage = self._stages[t]
            if stage.legal and index != WAIT:
                self._moves[t] += 1
                self.decisions += 1
                self._arrive(t, self._settle(t, self._dynamics.after(stage, stage.legal[index])))
        if self._dynamics.crowded:
            self._stages = self._dynamics.scatter(self._stages)
        return self._turn()

    def deal(self, hands: NDArray[np.uint64]) -> Turn:
        """Play these deals, one a table and each once: a table whose game ends is done.

        A done table has no legal moves. `group` is the row in `hands`.

        Args:
            hands: [T, 1], the keys of the deals (`deal_hands`).

        Raises:
            ValueError: there is not one for every table; nothing has changed.
        """
        if hands.shape != (len(self._stages), 1):
            raise ValueError(f"hands are {hands.shape}, not ({len(self._stages)}, 1)")
        self._endless = False
        self.done[:] = False
        self._reward[:] = 0.0
        self._group[:] = self._rows
        for t, key in enumerate(hands[:, 0].tolist()):
            self._arrive(t, self._begin(t, key))
        return self._turn()

    def _arrive(self, t: int, stage: Stage) -> None:
        """The table stands there; if its game is over, note that and deal the next."""
        self._stages[t] = stage
        returns = stage.returns or self._nothing
        if not self._is_over(t, stage):
            if self._pays_between:
                self._reward[t] = np.subtract(returns, self._paid[t])
                self._paid[t] = returns
            return
        payoff = [got - paid for got, paid in zip(returns, self._paid[t], strict=True)]
        self._ends.append(_End(t, payoff, stage))
        if self._endless:
            self._group[t] += len(self._stages)
            self._stages[t] = self._deal_next(t)
        else:
            self.done[t] = True
            self._stages[t] = self._nowhere

    def _deal_next(self, t: int) -> Stage:
        """Begin the table's deal, or a later one where nobody has a choice."""
        for _ in range(MOST_EMPTY):
            stage = self._begin(t, seeding.key(self._seed, int(self._group[t])))
            if not self._is_over(t, stage):
                return stage
            self._group[t] += len(self._rows)
        raise TroupeError(f"game {self._name}: in {MOST_EMPTY} games no seat ever had a choice")

    def _begin(self, t: int, key: int) -> Stage:
        self._moves[t] = 0
        self._paid[t] = self._nothing
        self._uniform[t] = Uniforms(key)
        return self._settle(t, self._dynamics.first())

    def _settle(self, t: int, stage: Stage) -> Stage:
        """Let chance and forced moves happen until a seat must decide, or the game is over."""
        while stage.legal:
            if stage.odds:
                action = drawn(stage, self._uniform[t])
            elif self._skip_forced and len(stage.legal) == 1 and not self._is_over(t, stage):
                action = stage.legal[0]
                self._moves[t] += 1
                self.decisions += 1
                self.forced += 1
            else:
                break
            stage = self._dynamics.after(stage, action)
        return stage

    def _is_over(self, t: int, stage: Stage) -> bool:
        return not stage.legal or self._moves[t] == self._max_moves

    def _turn(self) -> Turn:
        stages, ends = self._stages, self._ends
        self._ends = []
        np.cumsum([len(stage.legal) for stage in stages], out=self._offsets[1:])
        legal = np.fromiter(chain.from_iterable([stage.legal for stage in stages]), np.int64)
        np.concatenate([stage.tensor for stage in stages], out=self._state.reshape(-1))
        owner = np.repeat(self._rows, self._offsets[1:] - self._offsets[:-1])
        return Turn(
            seat=np.array([stage.seat for stage in stages], np.uint8),
            offsets=self._offsets,
            moves=legal,
            legal=legal,
            observation={"state": self._state, "action_mask": self._packed(owner, legal)},
            group=self._group,
            finished=np.array([end.table for end in ends], np.int64),
            payoff=np.array([end.payoff for end in ends], np.float32).reshape(-1, self._seats),
            reward=self._reward if self._pays_between else None,
            truncated=self._truncated(ends) if self._max_moves else None,
            final=self._final(ends) if self._max_moves else {},
        )

    def _packed(self, rows: NDArray[np.int64], legal: NDArray[np.int64]) -> NDArray[np.uint8]:
        """[T, bytes]: the mask of the legal actions, where `legal[i]` is one of table `rows[i]`."""
        mask = np.zeros((len(self._stages), self._actions), np.bool_)
        mask[rows, legal] = True
        return np.packbits(mask, axis=1, bitorder="little")

    def _truncated(self, ends: Sequence[_End]) -> NDArray[np.bool_]:
        """[K, seats]: a game is truncated for all its seats."""
        games = np.array([bool(end.stage.legal) for end in ends], np.bool_)
        return np.repeat(games[:, None], self._seats, axis=1)

    def _final(self, ends: Sequence[_End]) -> Columns:
        """What each seat sees of games that were truncated; every action is legal to it there."""
        state = np.zeros((len(ends), self._seats, self._observe.size), np.float32)
        for row, end in enumerate(ends):
            for seat in range(self._seats) if end.stage.legal else ():
                state[row, seat] = self._observe(end.stage.state, seat)
        anything = np.packbits(np.ones(self._actions, np.bool_), bitorder="little")
        mask = np.broadcast_to(anything, (len(ends), self._seats, len(anything)))
        return {"state": state, "action_mask": mask}
