"""Stepping sound environments: what is seen, what ends, and what a policy chooses in."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from troupe.episodes import Array
from troupe.errors import UserError
from troupe_actors import environments
from troupe_actors.environments import Driver, Environments, Patience, Seeds, Transition
from troupe_actors.environments.vectorised import Vectorised

SEEDS = Seeds(7, "actor", 0)


class Counting(gymnasium.Env[Any, Any]):
    """Shows (episode, step), terminates or is truncated after some steps, rewards the step."""

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1000, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self, length: int = 3, truncates: bool = True) -> None:
        self.length, self.truncates = length, truncates
        self.episode, self.at = -1, 0
        self.buffer = np.zeros(2, np.float32)  # one for ever, as some environments keep it

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.at = self.episode + 1, 0
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.at += 1
        over = self.at == self.length
        return self.show(), float(self.at), over and not self.truncates, over, {}

    def show(self) -> Any:
        self.buffer[:] = self.episode, self.at
        return self.buffer


class Copying(Counting):
    """What SAME_STEP needs: Gymnasium does not copy the last observation before it resets."""

    def show(self) -> Any:
        return super().show().copy()


def uneven(count: int, mode: AutoresetMode) -> VectorEnv[Any, Any, Any]:
    """Environment i runs 2 + i steps; even ones are truncated."""
    lengths = [(2 + i, i % 2 == 0) for i in range(count)]
    makers = [lambda n=n, t=t: Copying(n, t) for n, t in lengths]
    return SyncVectorEnv(makers, autoreset_mode=mode)


@pytest.fixture
def name() -> Iterator[str]:
    gymnasium.register("troupe-tests/Counting-v0", entry_point=Counting)
    yield "troupe-tests/Counting-v0"
    del gymnasium.registry["troupe-tests/Counting-v0"]


def play(driver: Driver, steps: int) -> Iterator[Transition]:
    for _ in range(steps):
        yield driver.step(np.zeros(driver.count, np.int64))


def test_the_final_observation_is_the_true_one_and_no_padding_appears(name: str) -> None:
    driver = Environments(name, {"length": 3}, 2)
    assert driver.reset(SEEDS)["observation"].tolist() == [[0, 0], [0, 0]]
    seen = []
    for met in play(driver, 7):
        assert met.skipped.size == 0
        assert not met.terminated.any()
        seen.append((met.observation["observation"][0].tolist(), float(met.reward[0])))
        if met.ended.size:
            assert met.ended.tolist() == [0, 1]
            assert met.truncated.all()
            assert met.final["observation"][:, 1].tolist() == [3, 3]
            assert met.returns.tolist() == [6, 6]
            assert met.lengths.tolist() == [3, 3]
        else:
            assert not met.truncated.any()
            assert met.final["observation"].shape == (0, 2)
    expected = [([0, 1], 1), ([0, 2], 2), ([1, 0], 3), ([1, 1], 1), ([1, 2], 2), ([2, 0], 3)]
    assert seen == [*expected, ([2, 1], 1)]
    assert driver.episodes.tolist() == [2, 2]


def test_what_terminates_is_never_truncated_too(name: str) -> None:
    driver = Environments(name, {"length": 2, "truncates": False}, 1)
    driver.reset(SEEDS)
    *_, met = play(driver, 2)
    assert met.terminated.tolist() == [True]
    assert met.truncated.tolist() == [False]


def test_a_transition_is_the_callers_to_keep(name: str) -> None:
    driver = Environments(name, {"length": 9}, 1)
    driver.reset(SEEDS)
    kept = list(play(driver, 3))
    assert [met.observation["observation"][0, 1] for met in kept] == [1, 2, 3]


def test_a_time_limit_is_an_option_of_any_environment() -> None:
    name = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    driver = Environments(name, {"max_episode_steps": 2}, 1)
    driver.reset(SEEDS)
    first, second = play(driver, 2)
    assert first.ended.size == 0
    assert second.truncated.tolist() == [True]


def test_cartpole_is_as_gymnasium_plays_it() -> None:
    driver = Environments("CartPole-v1", {}, 3)
    bare = [gymnasium.make("CartPole-v1") for _ in range(3)]
    observation = driver.reset(SEEDS)["observation"]
    for row, env in enumerate(bare):
        assert (observation[row] == env.reset(seed=SEEDS.of(row, 0))[0]).all()
    random = np.random.default_rng(0)
    episodes = [0, 0, 0]
    for _ in range(200):
        actions = random.integers(0, 2, 3)
        met = driver.step(actions)
        for row, env in enumerate(bare):
            seen, reward, terminated, truncated, _ = env.step(actions[row])
            assert (reward, terminated) == (met.reward[row], met.terminated[row])
            if terminated or truncated:
                (index,) = np.flatnonzero(met.ended == row)
                assert (met.final["observation"][index] == seen).all()
                episodes[row] += 1
                seen, _ = env.reset(seed=SEEDS.of(row, episodes[row]))
            assert (met.observation["observation"][row] == seen).all()
    assert min(episodes) > 2
    assert driver.episodes.tolist() == episodes


def test_seeds_are_of_role_slot_environment_and_episode_alone() -> None:
    seeds = {SEEDS.of(e, k) for e in range(10) for k in range(10)}
    seeds |= {Seeds(7, "actor", 1).of(0, 0), Seeds(7, "judge", 0).of(0, 0)}
    assert len(seeds) == 102
    assert max(seeds) < 2**31
    assert Seeds(7, "actor", 0).of(3, 4) == SEEDS.of(3, 4)


def test_play_goes_on_at_any_episode() -> None:
    driver, again = (Environments("CartPole-v1", {}, 2) for _ in range(2))
    driver.reset(SEEDS)
    ended: list[int] = []
    while 0 not in ended:
        (met,) = play(driver, 1)
        ended = met.ended.tolist()
    observation = again.reset(SEEDS, driver.episodes.tolist())
    assert again.episodes.tolist() == driver.episodes.tolist()
    assert (observation["observation"][0] == met.observation["observation"][0]).all()


def test_continuous_actions_are_clipped_for_the_environment_alone() -> None:
    driver = Environments("Pendulum-v1", {}, 2)
    bare = [gymnasium.make("Pendulum-v1") for _ in range(2)]
    driver.reset(SEEDS)
    for row, env in enumerate(bare):
        env.reset(seed=SEEDS.of(row, 0))
    actions = np.array([[50.0], [-0.5]], np.float32)
    met = driver.step(actions)
    assert actions.tolist() == [[50.0], [-0.5]]
    for row, (env, action) in enumerate(zip(bare, [[2.0], [-0.5]], strict=True)):
        seen, reward, *_ = env.step(np.array(action, np.float32))
        assert (met.observation["observation"][row] == seen).all()
        assert met.reward[row] == np.float32(reward)


class Shown(Counting):
    """Shows and takes samples of spaces that are given; remembers what it was told to do."""

    def __init__(self, seen: spaces.Space[Any], done: spaces.Space[Any]) -> None:
        super().__init__(length=4)
        self.observation_space, self.action_space = seen, done
        self.shown: list[Any] = []
        self.told: list[Any] = []

    def show(self) -> Any:
        self.shown.append(self.observation_space.sample())
        return self.shown[-1]

    def step(self, action: Any) -> Any:
        self.told.append(action)
        return super().step(action)


def shown(seen: spaces.Space[Any], done: spaces.Space[Any] | None = None) -> tuple[Any, Driver]:
    """An environment with these spaces, and a driver of it alone."""
    env = Shown(seen, spaces.Discrete(2) if done is None else done)
    gymnasium.register("troupe-tests/Shown-v0", entry_point=lambda: env)
    try:
        return env, Environments("troupe-tests/Shown-v0", {}, 1)
    finally:
        del gymnasium.registry["troupe-tests/Shown-v0"]


def test_images_stay_bytes() -> None:
    env, driver = shown(spaces.Box(0, 255, (8, 8, 3), np.uint8))
    column = driver.reset(SEEDS)["observation"]
    assert column.dtype == np.uint8
    assert (column[0] == env.shown[-1]).all()
    assert driver.spaces.observation["observation"] == env.observation_space
    met = driver.step(np.zeros(1, np.int64))
    assert (met.observation["observation"][0] == env.shown[-1]).all()


def test_parts_become_named_columns() -> None:
    parts = {
        "image": spaces.Box(0, 255, (4, 4), np.uint8),
        "body": spaces.Tuple([spaces.Box(-1, 1, (3,), np.float64), spaces.Discrete(5, start=2)]),
        "bits": spaces.MultiBinary(11),
        "kinds": spaces.MultiDiscrete([3, 4]),
        "height": spaces.Box(0, 1, (), np.float32),
    }
    env, driver = shown(spaces.Dict(parts))
    columns = driver.reset(SEEDS)
    told = env.shown[-1]
    assert set(columns) == set(driver.spaces.observation)
    assert set(columns) == {"image", "body/0", "body/1", "bits", "kinds", "height"}
    assert columns["body/0"].dtype == np.float32
    assert columns["body/0"][0].tolist() == told["body"][0].astype(np.float32).tolist()
    assert columns["body/1"].tolist() == [told["body"][1] - 2]
    assert driver.spaces.observation["body/1"] == spaces.Discrete(5)
    unpacked = np.unpackbits(columns["bits"], axis=1, count=11, bitorder="little")
    assert unpacked[0].tolist() == told["bits"].tolist()
    assert columns["kinds"][0].tolist() == told["kinds"].tolist()
    assert columns["height"].tolist() == [told["height"]]


@pytest.mark.parametrize(
    ("space", "plain", "chosen", "told"),
    [
        (spaces.Discrete(3, start=5), spaces.Discrete(3), [2], 7),
        (
            spaces.MultiDiscrete([[2, 3], [4, 5]]),
            spaces.MultiDiscrete([2, 3, 4, 5]),
            [[1, 2, 3, 4]],
            [[1, 2], [3, 4]],
        ),
        (spaces.MultiBinary([2, 2]), spaces.MultiBinary(4), [[1, 0, 0, 1]], [[1, 0], [0, 1]]),
        (
            spaces.Box(-0.1, 0.1, (2, 2), np.float64),
            spaces.Box(-0.1, 0.1, (4,), np.float32),
            [[9.0, -9.0, 0.0, 0.0625]],
            [[0.1, -0.1], [0.0, 0.0625]],
        ),
    ],
)
def test_policies_act_in_plain_spaces(
    space: spaces.Space[Any], plain: spaces.Space[Any], chosen: Any, told: Any
) -> None:
    env, driver = shown(spaces.Discrete(2), space)
    assert driver.spaces.action == plain
    driver.reset(SEEDS)
    driver.step(np.array(chosen, plain.dtype))
    assert space.contains(env.told[0])
    assert np.asarray(env.told[0]).tolist() == told


def test_a_name_may_be_a_dotted_path(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_worlds.py").write_text(
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class World(CartPoleEnv): pass\n"
        "def build(gravity): return World()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_worlds:World", "my_worlds.World"):
        assert type(environments.make(name, {}).unwrapped).__name__ == "World"
    assert environments.make("my_worlds:build", {"gravity": 1}).reset(seed=0)[0].shape == (4,)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_gives_the_same_steps(mode: AutoresetMode) -> None:
    """Steps that were played, ends and final observations are those of one by one."""
    driver = Vectorised("uneven", lambda: uneven(3, mode), Patience(), lambda seconds: None)
    played: list[list[Any]] = [[], [], []]
    observation = driver.reset(SEEDS)["observation"]
    for met in play(driver, 12):
        for row in range(3):
            if row in met.skipped:
                assert met.reward[row] == 0
                assert not met.terminated[row]
                assert not met.truncated[row]
                continue
            (index,) = np.flatnonzero(met.ended == row) if row in met.ended else [-1]
            after = met.final if index >= 0 else met.observation
            seen = after["observation"][index if index >= 0 else row]
            kind = "terminated" if met.terminated[row] else "truncated" * bool(met.truncated[row])
            played[row].append((observation[row, 1], float(met.reward[row]), seen[1], kind))
            if index >= 0:
                assert met.lengths[index] == 2 + row
                assert met.returns[index] == sum(range(3 + row))
        observation = met.observation["observation"]
    for row, steps in enumerate(played):
        kind = "truncated" if row % 2 == 0 else "terminated"
        one = [(i, i + 1, i + 1, kind if i == row + 1 else "") for i in range(2 + row)]
        assert steps == (one * 6)[: len(steps)]
        assert len(steps) == 12 if mode is not AutoresetMode.NEXT_STEP else len(steps) >= 8


def test_a_vectorised_environment_of_gymnasiums_own() -> None:
    name = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"
    driver = environments.create(name, {}, 4)
    assert driver.spaces.action == spaces.Discrete(2)
    driver.reset(SEEDS)
    ended: Array = np.empty(0, np.int64)
    for met in play(driver, 40):
        assert met.skipped.tolist() == ended.tolist()
        ended = met.ended
    assert driver.episodes.min() > 1


def test_a_vector_environment_that_does_not_say_its_mode_is_refused() -> None:
    env = uneven(2, AutoresetMode.SAME_STEP)
    env.metadata = {}
    with pytest.raises(UserError, match=r"'uneven': its metadata\['autoreset_mode'\] is None"):
        Vectorised("uneven", lambda: env, Patience(), lambda seconds: None)
