"""Small environments of PettingZoo with everything in them that tables have to get right."""

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv


class Race(AECEnv):
    """Three agents add 0, 1 or 2 to a sum of their own, in turn, until each has come to `goal`.

    Who adds pays half of it. Who comes to the goal gets 10 and leaves, and those still there pay 1.
    Each sees the count of moves, its place and its sum, and as many zeros as its place. After
    `limit` moves those that are left are truncated. `broken` says what goes wrong.
    """

    metadata = {"name": "race_v0", "is_parallelizable": False}  # noqa: RUF012
    possible_agents = ["Ann", "Bob", "Cy"]  # noqa: RUF012

    def __init__(self, goal=4, limit=100, broken=None):
        self.goal, self.limit, self.broken = goal, limit, broken
        self.render_mode = None
        self._observations = {
            agent: spaces.Dict(
                {
                    "observation": spaces.Box(-9, 9, (3 + place,), np.float32),
                    "action_mask": spaces.Box(0, 1, (3,), np.int8),
                }
            )
            for place, agent in enumerate(self.possible_agents)
        }
        self._actions = {agent: spaces.Discrete(3) for agent in self.possible_agents}

    def observation_space(self, agent):
        return self._observations[agent]

    def action_space(self, agent):
        return self._actions[agent]

    def reset(self, seed=None, options=None):
        if self.broken == "reset":
            raise RuntimeError("no board")
        self.start = int(np.random.default_rng(seed).integers(3))
        self.agents = list(self.possible_agents)
        self.sums = dict.fromkeys(self.agents, 0)
        self.moves = 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = self.agents[self.start]

    def observe(self, agent):
        place = self.possible_agents.index(agent)
        seen = np.zeros(3 + place, np.float32)
        seen[:3] = self.moves % 9, place, self.sums[agent]
        mask = np.full(3, agent == self.agent_selection, np.int8)
        mask[2] &= self.sums[agent] + 2 <= self.goal
        if self.moves == 2:
            if self.broken == "nan":
                seen[0] = np.nan
            if self.broken == "mask":
                mask[:] = 0
            if self.broken == "shape":
                seen = seen[:1]
            if self.broken == "mask shape":
                mask = mask[:2]
        return {"observation": seen, "action_mask": mask}

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0
        self._clear_rewards()
        self.moves += 1
        if self.broken == "raises" and self.moves == 2:
            raise RuntimeError("the track is wet")
        self.sums[agent] += int(action)
        self.rewards[agent] = -0.5 * int(action)
        if self.sums[agent] >= self.goal:
            for other in self.agents:
                self.rewards[other] += 10 if other == agent else -1
            self.terminations[agent] = True
        if self.moves >= self.limit:
            self.truncations = {other: not self.terminations[other] for other in self.agents}
        if self.broken == "infinite":
            self.rewards[agent] = float("inf")
        if self.broken == "flag":
            self.terminations[agent] = 1
        order = self.possible_agents
        place = order.index(agent)
        for step in range(1, 4):
            following = order[(place + step) % 3]
            if following in self.agents and not self.terminations[following]:
                self.agent_selection = following
                break
        self._accumulate_rewards()
        if self.broken == "reward":
            self.rewards[self.agents[-1]] = "1.0"
        self._deads_step_first()


class Sway(ParallelEnv):
    """Two agents push a point at once: one with a Box, one with MultiDiscrete; five rounds long."""

    metadata = {"name": "sway_v0"}  # noqa: RUF012
    possible_agents = ["left_0", "right_0"]  # noqa: RUF012

    def __init__(self, rounds=5):
        self.rounds = rounds
        self.render_mode = None
        self._acts = {
            "left_0": spaces.Box(-1.0, 1.0, (2,), np.float64),
            "right_0": spaces.MultiDiscrete([3, 2], start=[1, 0]),
        }
        self._sees = {agent: spaces.Box(-99, 99, (3,), np.float64) for agent in self._acts}

    def observation_space(self, agent):
        return self._sees[agent]

    def action_space(self, agent):
        return self._acts[agent]

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.round = 0
        self.at = np.random.default_rng(seed).normal(size=2)
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions):
        assert self._acts["left_0"].contains(actions["left_0"])
        assert self._acts["right_0"].contains(np.asarray(actions["right_0"]))
        self.round += 1
        self.at = self.at + actions["left_0"] - np.asarray(actions["right_0"])
        agents, over = self.agents, self.round == self.rounds
        if over:
            self.agents = []
        return (
            self._seen(),
            {agent: float(self.round) for agent in agents},
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            {agent: {} for agent in agents},
        )

    def _seen(self):
        return {agent: np.array([*self.at, self.round]) for agent in self.possible_agents}


def noted(**options):
    """A Race that says in an agent's info, not in what it sees, what is legal."""

    class Noted(Race):
        def observation_space(self, agent):
            return self._observations[agent]["observation"]

        def observe(self, agent):
            return super().observe(agent)["observation"]

        def reset(self, seed=None, options=None):
            super().reset(seed, options)
            self._note()

        def step(self, action):
            super().step(action)
            self._note()

        def _note(self):
            for agent in self.agents:
                self.infos[agent] = {"action_mask": Race.observe(self, agent)["action_mask"]}

    return Noted(**options)


def forced(**options):
    """A Race in which there is one legal move from the third on."""

    class Forced(Race):
        def observe(self, agent):
            seen = super().observe(agent)
            if self.moves > 2:
                seen["action_mask"][:2] = 0, agent == self.agent_selection
                seen["action_mask"][2] = 0
            return seen

    return Forced(**options)


def unseeded(**options):
    class Unseeded(Race):
        def reset(self, seed=None, options=None):
            super().reset(None, options)

    return Unseeded(**options)
