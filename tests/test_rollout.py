"""Rollouts: every step that was played is in one fragment, ended as it was, under the right number."""

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from troupe.codec import decode, encode
from troupe.episodes import Array, Columns, Ending, Episodes
from troupe.policies import Choices, Decisions
from troupe_actors import environments
from troupe_actors.environments import Driver, Environments, Seeds, Vectorised
from troupe_actors.environments.faults import Patience
from troupe_actors.recorder import Author
from troupe_actors.rollout import EnvironmentLoop, Rollout
from troupe_actors.selfplay import Player

SEEDS = Seeds(1, "actor", 0)
CUT, TERMINATED, TRUNCATED = Ending.CUT, Ending.TERMINATED, Ending.TRUNCATED


class Walk(gymnasium.Env[Any, Any]):
    """Shows (row, episode, step). Row 0's episodes have 3 steps and terminate, row 1's have 4 and
    are truncated, row 2's never end; the reward is 10 * episode + step."""

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1000, (3,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(5)
    known: ClassVar = {
        SEEDS.of(row, episode): (row, episode) for row in range(3) for episode in range(40)
    }
    fails: ClassVar[set[tuple[int, int, int]]] = set()
    """(row, episode, step) in which it raises, once each."""

    def __init__(self) -> None:
        self.row, self.episode, self.at = -1, -1, 0
        self.told: list[Any] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.episode = Walk.known[seed] if seed else (self.row, self.episode + 1)
        self.at = 0
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.at += 1
        self.told.append(action)
        if (self.row, self.episode, self.at) in Walk.fails:
            Walk.fails.discard((self.row, self.episode, self.at))
            raise OSError("gone")
        over, stopped = (self.row, self.at) == (0, 3), (self.row, self.at) == (1, 4)
        return self.show(), 10.0 * self.episode + self.at, over, stopped, {}

    def show(self) -> Array:
        return np.array([self.row, self.episode, self.at], np.float32)


class Counter:
    """Acts with the number of its call, and remembers how often it acted in each episode."""

    def __init__(self, bits: int = 0) -> None:
        self.calls, self.bits = 0, bits
        self.explored: list[float] = []

    def act(
        self, decisions: Decisions, random: np.random.Generator, exploration: float = 0.0
    ) -> Choices:
        rows = len(decisions.observation["observation"])
        assert (len(decisions.legal), decisions.offsets.tolist()) == (0, [0] * (rows + 1))
        self.explored.append(exploration)
        action: Array = np.full(rows, self.calls % 5)
        if self.bits:
            bits = np.arange(rows * self.bits).reshape(rows, -1) % 3 == self.calls % 3
            action = np.packbits(bits, axis=1, bitorder="little")
        self.calls += 1
        log_prob = np.full(rows, -self.calls, np.float32)
        state = {"h": decisions.state["h"] + 1}
        return Choices(action, log_prob, np.zeros(rows, np.int64), state)

    def values(self, decisions: Decisions) -> NDArray[np.float32]:
        raise NotImplementedError

    def initial(self, count: int) -> Columns:
        return {"h": np.full((count, 2), 100, np.int64)}

    def load(self, tensors: Mapping[str, Array]) -> None:
        raise NotImplementedError


def a_loop(driver: Driver, steps: int, bits: int = 0) -> tuple[EnvironmentLoop, Player]:
    player = Player("agent", (0,), driver.spaces, Counter(bits))
    loop = EnvironmentLoop(driver, player, steps, Author("actor-4", 2, 1))
    loop.begin(driver.reset(SEEDS))
    return loop, player


def walks(fails: set[tuple[int, int, int]] | None = None) -> Driver:
    Walk.fails = fails or set()
    return Environments(f"{__name__}:Walk", {}, 3, wait=lambda seconds: None)


def play(loop: EnvironmentLoop, times: int) -> list[Rollout]:
    return [loop.play(np.random.default_rng(0), 0.25) for _ in range(times)]


def told(block: Episodes) -> list[tuple[int, int, list[float], list[float], list[float], int]]:
    """Of every fragment: row, episode, steps seen, rewards, what was seen last, ending."""
    ends = np.cumsum(block.length)
    parts = []
    for i, (end, length) in enumerate(zip(ends, block.length, strict=True)):
        seen = block.observation["observation"][end - length : end]
        group = int(block.group[i])
        row, episode = group >> 40, group & (1 << 40) - 1
        assert (seen[:, 0] == row).all()
        assert (seen[:, 1] == episode).all()
        last = block.final["observation"][i].tolist()
        reward = block.reward[end - length : end].tolist()
        parts.append((row, episode, seen[:, 2].tolist(), reward, last, int(block.ending[i])))
    return parts


def test_every_fragment_is_as_it_was_played() -> None:
    loop, _ = a_loop(walks(), 5)
    first, second = play(loop, 2)
    assert told(first.block) == [
        (0, 0, [0, 1, 2], [1, 2, 3], [0, 0, 3], TERMINATED),
        (0, 1, [0, 1], [11, 12], [0, 1, 2], CUT),
        (1, 0, [0, 1, 2, 3], [1, 2, 3, 4], [1, 0, 4], TRUNCATED),
        (1, 1, [0], [11], [1, 1, 1], CUT),
        (2, 0, [0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 0, 5], CUT),
    ]
    assert told(second.block) == [
        (0, 1, [2], [13], [0, 1, 3], TERMINATED),
        (0, 2, [0, 1, 2], [21, 22, 23], [0, 2, 3], TERMINATED),
        (0, 3, [0], [31], [0, 3, 1], CUT),
        (1, 1, [1, 2, 3], [12, 13, 14], [1, 1, 4], TRUNCATED),
        (1, 2, [0, 1], [21, 22], [1, 2, 2], CUT),
        (2, 0, [5, 6, 7, 8, 9], [6, 7, 8, 9, 10], [2, 0, 10], CUT),
    ]
    assert (first.returns.tolist(), first.lengths.tolist()) == ([6, 10], [3, 4])
    assert second.returns.tolist() == [36, 50, 66]


def test_columns_say_who_acted_how() -> None:
    loop, player = a_loop(walks(), 5)
    player.version = 7
    (rollout,) = play(loop, 1)
    block = rollout.block
    assert (block.policy, block.actor, block.incarnation, block.attempt) == (
        "agent", "actor-4", 2, 1,
    )  # fmt: skip
    assert block.action["action"].tolist() == [0, 1, 2, 3, 4] * 3
    assert block.log_prob.tolist() == [-1, -2, -3, -4, -5] * 3
    assert block.version.tolist() == [7] * 15
    assert block.seat.tolist() == [0] * 5
    assert isinstance(player.acting, Counter)
    assert player.acting.explored == [0.25] * 5
    again = decode(encode(block))
    assert told(again) == told(block)


def test_a_recurrent_state_begins_anew_with_each_episode() -> None:
    loop, _ = a_loop(walks(), 5)
    first, second = play(loop, 2)
    assert first.block.initial["h"][:, 0].tolist() == [100] * 5
    # Row 0 was two steps into its episode, row 1 one, row 2 five.
    assert second.block.initial["h"][:, 0].tolist() == [102, 100, 100, 101, 100, 105]


def test_a_failed_step_is_no_step_and_cuts_its_fragment() -> None:
    loop, _ = a_loop(walks({(2, 0, 3), (0, 0, 1)}), 5)
    assert told(play(loop, 1)[0].block) == [
        (0, 1, [0, 1, 2], [11, 12, 13], [0, 1, 3], TERMINATED),
        (0, 2, [0], [21], [0, 2, 1], CUT),
        (1, 0, [0, 1, 2, 3], [1, 2, 3, 4], [1, 0, 4], TRUNCATED),
        (1, 1, [0], [11], [1, 1, 1], CUT),
        (2, 0, [0, 1], [1, 2], [2, 0, 2], CUT),
        (2, 1, [0, 1], [11, 12], [2, 1, 2], CUT),
    ]


def test_steps_that_only_begin_an_episode_are_not_recorded() -> None:
    Walk.fails = set()
    driver = Vectorised(
        "walks",
        lambda: SyncVectorEnv([Walk] * 3, autoreset_mode=AutoresetMode.NEXT_STEP),
        Patience(),
        lambda seconds: None,
    )
    loop, _ = a_loop(driver, 6)
    first, second = play(loop, 2)
    rows = [part for part in told(first.block) if part[0] == 0]
    assert rows == [
        (0, 0, [0, 1, 2], [1, 2, 3], [0, 0, 3], TERMINATED),
        (0, 1, [0, 1], [11, 12], [0, 1, 2], CUT),
    ]
    assert told(second.block)[0] == (0, 1, [2], [13], [0, 1, 3], TERMINATED)


class Bits(Walk):
    action_space = spaces.MultiBinary(11)


def test_binary_actions_travel_packed() -> None:
    Walk.fails = set()
    driver = environments.create(f"{__name__}:Bits", {}, 3)
    loop, _ = a_loop(driver, 4, bits=11)
    block = play(loop, 1)[0].block
    assert block.action["action"].shape == (12, 2)
    assert isinstance(driver, Environments)
    given = [slot.env.unwrapped.told for slot in driver._slots]
    unpacked = np.unpackbits(block.action["action"], axis=1, count=11, bitorder="little")
    assert unpacked.reshape(3, 4, 11).tolist() == np.array(given).tolist()


@pytest.mark.parametrize("steps", [1, 2, 64])
def test_cartpole_steps_are_all_there_whatever_the_length(steps: int) -> None:
    driver = environments.create("CartPole-v1", {}, 2)
    player = Player("agent", (0,), driver.spaces, Balanced())
    loop = EnvironmentLoop(driver, player, steps, Author("actor-0", 0, 0))
    loop.begin(driver.reset(SEEDS))
    blocks = [rollout.block for rollout in play(loop, 64 // steps)]
    for row in range(2):
        seen: list[Any] = []
        for block in blocks:
            ends = np.cumsum(block.length)
            for i in np.flatnonzero(block.group >> 40 == row):
                steps_of = slice(ends[i] - block.length[i], ends[i])
                seen += block.observation["observation"][steps_of].tolist()
        assert seen == straight(row, 64)


class Balanced:
    """Acts by the sign of the pole's angle alone, one push in five the other way."""

    def act(
        self, decisions: Decisions, random: np.random.Generator, exploration: float = 0.0
    ) -> Choices:
        action = lean(decisions.observation["observation"])
        rows = len(action)
        return Choices(action, np.zeros(rows, np.float32), np.zeros(rows, np.int64))

    def values(self, decisions: Decisions) -> NDArray[np.float32]:
        raise NotImplementedError

    def initial(self, count: int) -> Columns:
        return {}

    def load(self, tensors: Mapping[str, Array]) -> None:
        raise NotImplementedError


def lean(observation: Array) -> NDArray[np.int64]:
    return (observation[:, 2] < 0.05).astype(np.int64)


def straight(row: int, steps: int) -> list[Any]:
    """What a plain loop over one environment sees."""
    env = gymnasium.make("CartPole-v1")
    episode = 0
    seen, _ = env.reset(seed=SEEDS.of(row, episode))
    every = []
    for _ in range(steps):
        every.append(seen.tolist())
        seen, _, over, stopped, _ = env.step(int(lean(seen[None])[0]))
        if over or stopped:
            episode += 1
            seen, _ = env.reset(seed=SEEDS.of(row, episode))
    return every
