"""Replay against golden numbers, and against a list of steps that is walked one by one."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe.episodes import Array, Ending, Episodes
from troupe.errors import TroupeError, UserError
from troupe_learners.algorithms import Batch, Replay
from troupe_learners.replay import Memory, following

PLAN = Replay(capacity=50, batch=8, updates_per_step=1.0, learning_starts=0, n_step=3, gamma=0.9)


class Part(NamedTuple):
    """A fragment: what is seen at each step, and after the last one."""

    seen: list[float]
    final: float
    ending: Ending
    environment: int = 0
    episode: int = 0


def block(*parts: Part, reward: list[float] | None = None, final: bool = True) -> Episodes:
    seen = np.array([x for part in parts for x in part.seen], np.float32)[:, None]
    steps = len(seen)
    return Episodes(
        policy="agent",
        actor="actor-0",
        incarnation=0,
        attempt=0,
        observation={"x": seen, "y": np.concatenate([seen, -seen], 1).astype(np.float64)},
        action={"action": (seen[:, 0] * 7).astype(np.int64)},
        reward=np.array(reward if reward is not None else [1.0] * steps, np.float32),
        log_prob=np.zeros(steps, np.float32),
        version=np.zeros(steps, np.uint32),
        length=np.array([len(part.seen) for part in parts], np.int32),
        seat=np.zeros(len(parts), np.uint8),
        group=np.array([part.environment << 40 | part.episode for part in parts], np.int64),
        ending=np.array([part.ending for part in parts], np.uint8),
        final={
            "x": np.array([[part.final] for part in parts], np.float32),
            "y": np.array([[part.final, -part.final] for part in parts]),
        }
        if final
        else {},
    )


def everything(memory: Memory) -> dict[str, Array]:
    """A sample in which every row is drawn, and of each only once, in the order of rows."""
    drawn = memory.sample(50 * memory.steps, np.random.default_rng(0), 0.0)
    index, first = np.unique(drawn["index"], return_index=True)
    assert len(index) == memory.steps
    return {name: column[first] for name, column in drawn.items()}


def targets(memory: Memory) -> list[float]:
    """Where the value of a state is what is seen there."""
    drawn = everything(memory)
    target: list[float] = (drawn["reward"] + drawn["discount"] * drawn["next.x"][:, 0]).tolist()
    return target


GOLDEN = (
    Part([0.5, 0.6, 0.7], 2.0, Ending.TRUNCATED, episode=0),
    Part([0.8], 3.0, Ending.TERMINATED, episode=1),
    Part([0.9, 1.0], 1.5, Ending.CUT, episode=2),
)


def test_golden_three_step_targets() -> None:
    memory = Memory(PLAN)
    memory.add("1-0", block(*GOLDEN, reward=[1, 2, 3, 4, 5, 6]), 0)
    assert targets(memory) == pytest.approx([6.688, 6.32, 4.8, 4.0, 11.615, 7.35])
    assert everything(memory)["discount"].tolist() == pytest.approx(
        [0.729, 0.81, 0.9, 0, 0.81, 0.9]
    )


def test_windows_go_on_when_the_rest_of_an_episode_comes() -> None:
    memory = Memory(PLAN)
    memory.add("1-0", block(*GOLDEN, reward=[1, 2, 3, 4, 5, 6]), 0)
    assert len(memory.state()["final.x"]) == 2
    rest = Part([1.5, 2.5], 3.5, Ending.TERMINATED, episode=2)
    memory.add("2-0", block(rest, reward=[7, 8]), 0)
    whole = [5 + 0.9 * 6 + 0.81 * 7 + 0.729 * 2.5, 6 + 0.9 * 7 + 0.81 * 8, 7 + 0.9 * 8, 8]
    assert targets(memory) == pytest.approx([6.688, 6.32, 4.8, 4.0, *whole])
    assert len(memory.state()["final.x"]) == 1, "what was seen after the cut is kept twice"


@pytest.mark.parametrize(
    ("rest", "stream"),
    [
        (Part([1.5], 0.0, Ending.TERMINATED, episode=3), 0),
        (Part([1.5], 0.0, Ending.TERMINATED, environment=1, episode=2), 0),
        (Part([1.5], 0.0, Ending.TERMINATED, episode=2), 1 << 16),
        (Part([1.25], 0.0, Ending.TERMINATED, episode=2), 0),
    ],
    ids=["episode", "environment", "actor", "gap"],
)
def test_a_fragment_of_something_else_is_not_the_rest(rest: Part, stream: int) -> None:
    memory = Memory(PLAN)
    memory.add("1-0", block(*GOLDEN, reward=[1, 2, 3, 4, 5, 6]), 0)
    memory.add("2-0", block(rest, reward=[7]), stream)
    assert targets(memory)[4:] == pytest.approx([11.615, 7.35, 7.0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(3, 70))
def test_every_window_is_that_of_a_walk(seed: int, n: int, capacity: int) -> None:
    random = np.random.default_rng(seed)
    memory = Memory(replace(PLAN, capacity=max(capacity, 12), n_step=n))
    world = _World(random, environments=3)
    for turn in range(12):
        memory.add(f"{turn}-0", world.play(int(random.integers(1, 5))), first_stream=5 << 16)
        held = len(world.walk) - memory.steps
        drawn = everything(memory)
        for i, row in enumerate(drawn["index"].tolist()):
            number = next(k for k in range(held, len(world.walk)) if k % max(capacity, 12) == row)
            reward, discount, after = world.window(number, n, PLAN.gamma)
            assert drawn["observation.x"][i, 0] == world.walk[number].seen
            assert drawn["observation.y"][i, 1] == -world.walk[number].seen
            assert drawn["action.action"][i] == int(world.walk[number].seen * 7)
            assert drawn["reward"][i] == pytest.approx(reward, rel=1e-5, abs=1e-5)
            assert drawn["discount"][i] == pytest.approx(discount, rel=1e-6)
            if discount:
                assert drawn["next.x"][i, 0] == after
                assert drawn["next.y"][i].tolist() == [after, -after]


class _Step(NamedTuple):
    seen: float
    reward: float
    environment: int
    episode: int
    time: int
    ending: Ending | None
    after: float


class _World:
    """Environments in which every state looks different, and a list of all that happened."""

    def __init__(self, random: np.random.Generator, environments: int) -> None:
        self.walk: list[_Step] = []
        self._random = random
        self._at = [(e, 0, 0, float(1000 * e)) for e in range(environments)]
        self._states = 10_000.0

    def play(self, rollout: int) -> Episodes:
        parts, rewards = [], []
        for environment, (_, episode, time, at) in enumerate(list(self._at)):
            seen: list[float] = []
            for step in range(rollout):
                self._states += 1.0
                reward = float(self._random.normal())
                ends = self._random.random() < 0.25
                over = Ending(int(self._random.integers(1, 3))) if ends else None
                here = _Step(at, reward, environment, episode, time, over, self._states)
                self.walk.append(here)
                seen.append(at)
                rewards.append(reward)
                if over is not None or step == rollout - 1:
                    ending = Ending.CUT if over is None else over
                    parts.append(Part(seen, self._states, ending, environment, episode))
                    seen = []
                at, time = self._states, time + 1
                if over is not None:
                    self._states += 1.0
                    at, time, episode = self._states, 0, episode + 1
            self._at[environment] = (environment, episode, time, at)
        return block(*parts, reward=rewards)

    def window(self, number: int, n: int, gamma: float) -> tuple[float, float, float]:
        """Walk on from a step through what has come so far."""
        step, total, discount = self.walk[number], 0.0, 1.0
        while True:
            total += discount * step.reward
            discount *= gamma
            n -= 1
            if step.ending is not None:
                return total, 0.0 if step.ending == Ending.TERMINATED else discount, step.after
            rest = [s for s in self.walk if s[2:5] == (*step[2:4], step.time + 1)]
            if n == 0 or not rest:
                return total, discount, step.after
            (step,) = rest


@pytest.mark.parametrize("alpha", [None, 0.7])
def test_a_restored_memory_goes_on_bit_by_bit(alpha: float | None) -> None:
    plan = replace(PLAN, alpha=alpha)
    first, second = Memory(plan), Memory(plan)
    random, world = np.random.default_rng(4), _World(np.random.default_rng(3), environments=4)
    for turn in range(9):
        first.add(f"{turn}-7", world.play(5), 0)
        drawn = first.sample(8, random, 0.1)
        first.update(drawn["index"], random.normal(size=8))
    saved = {name: np.ascontiguousarray(column) for name, column in first.state().items()}
    second.restore(safetensors.numpy.load(safetensors.numpy.save(saved)))
    assert second.oldest == first.oldest
    for turn in range(9, 25):
        played = world.play(5)
        for memory in (first, second):
            memory.add(f"{turn}-7", played, 0)
        one = first.sample(8, np.random.default_rng(turn), 0.5)
        other = second.sample(8, np.random.default_rng(turn), 0.5)
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
        for memory in (first, second):
            memory.update(one["index"], np.linspace(-1, 3, 8))
    assert second.oldest == first.oldest


def test_an_empty_memory_is_restored() -> None:
    memory = Memory(PLAN)
    memory.restore(Memory(PLAN).state())
    assert (memory.steps, memory.oldest) == (0, None)
    with pytest.raises(ValueError, match="nothing to draw"):
        memory.sample(1, np.random.default_rng(0), 0.0)


def test_priorities_decide_what_is_drawn_and_weights_make_up_for_it() -> None:
    memory = Memory(replace(PLAN, alpha=0.5, beta=0.4))
    memory.add("1-0", block(Part([1.0, 2.0, 3.0, 4.0], 0.0, Ending.TERMINATED)), 0)
    memory.update(np.array([0, 1, 2, 3]), np.array([4.0, -1.0, 0.25, 9.0], np.float32))
    memory.add("2-0", block(Part([5.0], 0.0, Ending.TERMINATED)), 0)
    expected = np.array([2.0, 1.0, 0.5, 3.0, 3.0])
    expected /= expected.sum()
    random = np.random.default_rng(0)
    drawn = [memory.sample(40, random, 0.5) for _ in range(500)]
    share = np.bincount(np.concatenate([d["index"] for d in drawn]), minlength=5) / 20_000
    np.testing.assert_allclose(share, expected, atol=0.01)
    for sample in drawn[:20]:
        weight = (5 * expected[sample["index"]]) ** -0.7
        np.testing.assert_allclose(sample["weight"], weight / weight.max(), rtol=1e-4)
        assert sample["weight"].dtype == np.float32


def test_without_priorities_all_are_drawn_alike() -> None:
    memory = Memory(PLAN)
    memory.add("1-0", block(Part([1.0, 2.0, 3.0, 4.0], 0.0, Ending.TERMINATED)), 0)
    drawn = memory.sample(20_000, np.random.default_rng(0), 0.0)
    memory.update(drawn["index"], drawn["reward"])
    np.testing.assert_allclose(np.bincount(drawn["index"]) / 20_000, 0.25, atol=0.01)
    assert "weight" not in drawn
    assert (drawn["reward"].dtype, drawn["discount"].dtype) == (np.float32, np.float32)


def test_the_oldest_block_is_known() -> None:
    memory = Memory(replace(PLAN, capacity=5))
    assert memory.oldest is None
    seen = []
    for number in range(5):
        memory.add(f"{number}-0", block(Part([1.0, 2.0], 0.0, Ending.TERMINATED)), 0)
        seen.append(memory.oldest)
    assert seen == ["0-0", "0-0", "0-0", "1-0", "2-0"]
    empty = replace(block(Part([1.0], 0.0, Ending.TERMINATED)), reward=np.zeros(0, np.float32))
    memory.add("5-0", empty, 0)
    assert (memory.steps, memory.oldest) == (5, "2-0")


def test_what_does_not_fit_is_refused() -> None:
    memory = Memory(replace(PLAN, capacity=2))
    with pytest.raises(UserError, match=r"algorithm.capacity: 2 is less than the 6 steps"):
        memory.add("1-0", block(*GOLDEN), 0)
    with pytest.raises(TroupeError, match=r"actor-0 for agent .* without the observation"):
        memory.add("1-0", block(Part([1.0], 0.0, Ending.CUT), final=False), 0)
    memory.add("1-0", block(Part([1.0, 2.0], 0.0, Ending.TERMINATED), final=False), 0)
    saved = memory.state()
    with pytest.raises(TroupeError, match=r"2 steps were saved of 2, and algorithm.capacity is 1"):
        Memory(replace(PLAN, capacity=1)).restore(saved)
    with pytest.raises(TroupeError, match="without priorities"):
        Memory(replace(PLAN, capacity=2, alpha=0.5)).restore(saved)


def test_the_states_after_a_sample_are_evaluated() -> None:
    x, y = torch.ones(2, 1), torch.zeros(2, 2)
    batch = Batch({"x": x}, {}, {"reward": x[:, 0], "next.x": x + 1, "next.y": y})
    after = following(batch)
    assert after.observation.keys() == {"x", "y"}
    assert after.observation["x"].tolist() == [[2.0], [2.0]]
    assert after.action is None
