"""What each seat of a PettingZoo environment sees and does, in columns as wide as the widest seat's."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, cast

import numpy as np
from gymnasium import spaces

from troupe.episodes import Array
from troupe.errors import UserError
from troupe.policies import Spaces
from troupe_actors.environments.actions import Actions
from troupe_actors.environments.faults import MismatchError, shown
from troupe_actors.environments.observations import ALONE, Layout
from troupe_actors.games.pettingzoo.making import Env

MASK: Final = "action_mask"
"""The part of an observation, or of an agent's info, that says which actions are legal."""


class Seat:
    """One agent. A Box of zeros and ones travels as bits, and so does a mask of legal actions."""

    def __init__(self, agent: str, env: Env) -> None:
        """Describe an agent of an environment that was just reset.

        Raises:
            UserError: no policy reads its observations or acts in its space.
        """
        self.agent = agent
        acts = env.action_space(agent)
        self.actions = Actions(acts, 1)
        if isinstance(self.actions.space, spaces.MultiBinary):
            raise UserError("action is MultiBinary, which no policy draws one by one; use Discrete")
        self.count = int(acts.n) if isinstance(acts, spaces.Discrete) else 0
        """Of numbered actions; 0 where the space is another one, of which none are listed."""
        self._start = int(acts.start) if isinstance(acts, spaces.Discrete) else 0
        self._every = list(range(self.count))
        seen = env.observation_space(agent)
        self._wrapped = not isinstance(seen, spaces.Dict)
        parts = dict(seen.spaces) if isinstance(seen, spaces.Dict) else {ALONE: seen}
        self._mask_in_info = MASK not in parts and MASK in env.infos.get(agent, {})
        self._masked = bool(self.count) and (MASK in parts or self._mask_in_info)
        if self._masked:
            parts[MASK] = spaces.MultiBinary(self.count)
        bits = {key: _as_bits(part) for key, part in parts.items()}
        self.layout = Layout(cast("spaces.Space[object]", spaces.Dict(bits)))  # type: ignore[arg-type]
        self.spaces = Spaces(self.layout.spaces, self.actions.space)

    def put(self, env: Env, into: Mapping[str, Array], row: int) -> Sequence[int]:
        """Write what the agent sees into its row; its legal actions, none where none are listed.

        Raises:
            MismatchError: that is not of its space, or not finite.
        """
        seen = env.observe(self.agent)
        if self._wrapped:
            seen = {ALONE: seen}
        if self._mask_in_info:
            if not isinstance(seen, Mapping):
                raise MismatchError(f"{ALONE} is {shown(seen)}, not a dict")
            seen = {**seen, MASK: env.infos[self.agent].get(MASK)}
        self.layout.put(into, row, seen)
        unfit = self.layout.unfit({name: column[row : row + 1] for name, column in into.items()})
        if unfit:
            raise MismatchError(unfit[1])
        if not self._masked:
            return self._every
        assert isinstance(seen, Mapping)
        legal: list[int] = np.flatnonzero(seen[MASK]).tolist()
        return legal

    def allow_all(self, into: Mapping[str, Array], row: int) -> None:
        """Where an agent that is not to move sees that nothing is legal, write that all is.

        What is worth something in the future must not depend on a mask that is empty for now.
        """
        if self._masked and not into[MASK][row].any():
            into[MASK][row] = np.packbits(np.ones(self.count, np.uint8), bitorder="little")

    def given(self, action: Array | int) -> object:
        """An action as the environment takes it.

        Raises:
            WrongActionError: it is out of bounds, or not finite.
        """
        if isinstance(action, int):
            return action + self._start
        shape = self.actions.space.shape or ()
        own = action[: shape[0]] if shape else action
        return self.actions.batch(own[None])[0]


class Seats:
    """All agents of an environment, and columns that hold what any of them sees."""

    def __init__(self, name: str, env: Env) -> None:
        """Describe an environment, which is reset for that.

        Raises:
            UserError: it does not name its agents, or one of them cannot be played.
        """
        agents = list(getattr(env, "possible_agents", ()))
        if not agents or len(agents) > 255:
            raise UserError(f"environment {name!r}: possible_agents has to name 1 to 255 agents")
        env.reset(seed=0)
        self.each = []
        for agent in agents:
            try:
                self.each.append(Seat(agent, env))
            except UserError as error:
                raise UserError(f"environment {name!r}, seat {agent}: {error}") from None
        self.index = {agent: index for index, agent in enumerate(agents)}
        self.names = tuple(_policy_name(agent) for agent in agents)
        if len(set(self.names)) < len(agents):
            raise UserError(f"environment {name!r}: two seats have one name: {', '.join(agents)}")
        try:
            self._widest = _widest(self.each)
        except UserError as error:
            raise UserError(f"environment {name!r}: {error}") from None

    def __len__(self) -> int:
        return len(self.each)

    def empty(self, rows: int) -> dict[str, Array]:
        """By name, zeros [rows, seats, ...], as wide as the widest seat's."""
        return {
            name: np.zeros((rows, len(self.each), *shape), dtype)
            for name, (shape, dtype) in self._widest.items()
        }

    def views(self, columns: Mapping[str, Array]) -> list[dict[str, Array]]:
        """By seat, its own columns of those that `empty` made, as wide as its own."""
        views = []
        for index, seat in enumerate(self.each):
            own = {}
            for column in seat.layout.columns:
                rows = columns[column.name][:, index]
                own[column.name] = rows[:, : column.shape[0]] if column.shape else rows
            views.append(own)
        return views


def _widest(seats: Sequence[Seat]) -> dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
    widest: dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]] = {}
    for seat in seats:
        for column in seat.layout.columns:
            shape, dtype = widest.get(column.name, (column.shape, column.dtype))
            if dtype != column.dtype or shape[1:] != column.shape[1:]:
                raise UserError(
                    f"seat {seat.agent} sees {column.name!r} as {column.dtype} {column.shape}, "
                    f"another as {dtype} {shape}; these do not go together"
                )
            widest[column.name] = (max(shape, column.shape), dtype)
    return widest


def _as_bits(space: object) -> object:
    """The same space, with MultiBinary for every Box of zeros and ones."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _as_bits(part) for key, part in space.items()})  # type: ignore[misc]
    if not isinstance(space, spaces.Box) or space.dtype.kind not in "biu":
        return space
    is_bits = not space.low.any() and (space.high == 1).all()
    return spaces.MultiBinary(space.shape) if is_bits else space


def _policy_name(agent: str) -> str:
    """An agent's name as policies may be called."""
    return re.sub(r"[^a-z0-9_.-]", "_", str(agent).lower()).lstrip("_.-") or "seat"
