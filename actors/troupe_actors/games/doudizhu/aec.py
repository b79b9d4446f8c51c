"""Dou Dizhu as a PettingZoo environment (agents move in turn)."""

from functools import cache
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray
from pettingzoo import AECEnv  # type: ignore[import-untyped]
from pettingzoo.utils.wrappers import OrderEnforcingWrapper  # type: ignore[import-untyped]

from troupe_actors.games.doudizhu import features, names, render
from troupe_actors.games.doudizhu.cards import DECK, deal_hands
from troupe_actors.games.doudizhu.moves import list_moves
from troupe_actors.games.doudizhu.rules import Rules
from troupe_actors.games.doudizhu.tables import Tables

Observation = dict[str, NDArray[np.int8]]

_ROOM: Final = 1 << 16
"""For every move of the whole deck, and what is written on the way to them."""


@cache
def every_move(rules: Rules) -> NDArray[np.uint64]:
    """All moves that can ever be legal under `rules`, ascending: [27846] by the default rules.

    They are the leads of a hand that holds the whole deck, and the pass, which is the first.
    """
    out = np.zeros(_ROOM, np.int64)
    end = list_moves(DECK, 0, rules.both_jokers_kicker, rules.four_with_two, out, 1)
    return np.sort(out[:end]).astype(np.uint64)


def env(render_mode: str | None = None, rules: Rules | None = None) -> AECEnv:
    """The environment, checked for calls out of order.

    Raises:
        ValueError: `render_mode` is neither None, "human" nor "ansi".
    """
    return OrderEnforcingWrapper(Environment(render_mode, rules or Rules()))


class Environment(AECEnv):  # type: ignore[misc]
    """One table, a game an episode.

    Action i is move i of `every_move(rules)`. An observation has `observation`, the bits of the
    agent's state (`features`) followed by those of the history, and `action_mask`, which is empty
    for agents that are not to move. Rewards come with the last move: what each seat won or lost.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - PettingZoo's own declaration
        "render_modes": ["human", "ansi"],
        "name": "doudizhu_v0",
        "is_parallelizable": False,
    }

    def __init__(self, render_mode: str | None, rules: Rules) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode {render_mode!r} is neither None, 'human' nor 'ansi'")
        self.render_mode = render_mode
        self.possible_agents = list(render.SEATS)
        self.agents: list[str] = []
        self._moves = every_move(rules)
        self._tables = Tables(1, rules, 0, skip_forced=False)
        self._turn = self._tables.turn()
        self._random, _ = seeding.np_random()
        history = features.HISTORY * features.CARDS
        self.action_spaces = {
            agent: spaces.Discrete(len(self._moves)) for agent in self.possible_agents
        }
        self.observation_spaces = {
            agent: spaces.Dict(
                {
                    "observation": spaces.MultiBinary(bits + history),
                    "action_mask": spaces.MultiBinary(len(self._moves)),
                }
            )
            for agent, bits in zip(self.possible_agents, features.STATE_BITS, strict=True)
        }

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The same object at every call."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Deal a new game; with a seed, the first of that seed's games."""
        if seed is not None:
            self._random, _ = seeding.np_random(seed)
        key = int(self._random.integers(2**63))
        self._turn = self._tables.deal(deal_hands(key)[None])
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agent_selection = self.agents[0]

    def observe(self, agent: str) -> Observation:
        """What an agent sees now, whoever is to move."""
        seat = self.possible_agents.index(agent)
        packed = self._tables.observe(0, seat)
        history = features.HISTORY * features.CARDS
        state = np.unpackbits(packed["state"], count=features.STATE_BITS[seat], bitorder="little")
        moves = np.unpackbits(packed["history"], count=history, bitorder="little")
        mask = np.zeros(len(self._moves), np.int8)
        if agent == self.agent_selection:
            mask[np.searchsorted(self._moves, self._turn.moves)] = 1
        return {"observation": np.concatenate([state, moves]).view(np.int8), "action_mask": mask}

    def step(self, action: int | None) -> None:
        """Make a move.

        Raises:
            ValueError: the move is not legal now; nothing has changed.
        """
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        if action is None or not 0 <= action < len(self._moves):
            raise ValueError(f"action {action} is not one of {len(self._moves)}")
        choice = np.flatnonzero(self._turn.moves == self._moves[action])
        if not len(choice):
            raise ValueError(f"action {action} ({self.describe(action)}) is not legal now")
        self._cumulative_rewards[agent] = 0.0
        self._turn = self._tables.play(choice)
        if len(self._turn.finished):
            payoff = self._turn.payoff[0].tolist()
            self.rewards = dict(zip(self.possible_agents, payoff, strict=True))
            self.terminations = dict.fromkeys(self.agents, True)
            self._accumulate_rewards()
        self.agent_selection = self.possible_agents[(self.agents.index(agent) + 1) % 3]
        if self.render_mode == "human":
            self.render()

    def describe(self, action: int) -> str:
        """An action as a person reads it."""
        return names.describe(int(self._moves[action]))

    def render(self) -> str | None:
        """The table as the agent to move sees it: printed by "human", returned by "ansi"."""
        seat = self.possible_agents.index(self.agent_selection)
        shown = render.text(self._tables.view(0, seat))
        if self.render_mode == "ansi":
            return shown
        if self.render_mode == "human":
            print(shown, end="")
        return None

    def close(self) -> None:
        """Nothing is held open."""
