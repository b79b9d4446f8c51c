"""Broken environments: each fault is told in one line with its place, or mended by a restart."""

import re
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from troupe import cli
from troupe.errors import UserError
from troupe_actors import environments
from troupe_actors.environments import (
    EnvironmentFaultError,
    Environments,
    Patience,
    Seeds,
)
from troupe_actors.environments.check import report
from troupe_actors.environments.vectorised import Vectorised

SEEDS = Seeds(0, "actor", 0)
NAME = "troupe-tests/Broken-v0"
Result = tuple[Any, Any, Any, Any, dict[str, Any]]


class Sound(gymnasium.Env[Any, Any]):
    """Ten steps an episode; what is broken below is broken in step 3 of an episode."""

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    at = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return self.show(), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        result = (self.show(), 1.0, self.at == 10, False, {})
        return self.broken(result) if self.at == 3 else result

    def show(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def broken(self, result: Result) -> Any:
        return result


class NanSeen(Sound):
    def broken(self, result: Result) -> Any:
        return (np.array([0, np.nan], np.float32), *result[1:])


class WrongShape(Sound):
    def broken(self, result: Result) -> Any:
        return (np.zeros(3, np.float32), *result[1:])


class WrongDtype(Sound):
    def broken(self, result: Result) -> Any:
        return (np.zeros(2, np.float64), *result[1:])


class NotAnArray(Sound):
    def broken(self, result: Result) -> Any:
        return ([0.0, 0.0], *result[1:])


class InfReward(Sound):
    def broken(self, result: Result) -> Any:
        return (result[0], np.inf, *result[2:])


class HugeReward(Sound):
    def broken(self, result: Result) -> Any:
        return (result[0], 1e39, *result[2:])


class TextReward(Sound):
    def broken(self, result: Result) -> Any:
        return (result[0], "1.0", *result[2:])


class ArrayReward(Sound):
    def broken(self, result: Result) -> Any:
        return (result[0], np.ones(1), *result[2:])


class NoReward(Sound):
    def broken(self, result: Result) -> Any:
        return (result[0], None, *result[2:])


class NumberFlag(Sound):
    def broken(self, result: Result) -> Any:
        return (*result[:2], 1, *result[3:])


class OldStep(Sound):
    def broken(self, result: Result) -> Any:
        return result[:3] + result[4:]


IN_STEP_3 = [
    (NanSeen, r"observation is not finite: \[0.0, nan\]"),
    (WrongShape, r"observation is an array float32 \(3,\); its space says .* float32 \(2,\)"),
    (WrongDtype, r"observation is an array float64 \(2,\); its space says .* float32 \(2,\)"),
    (NotAnArray, r"observation is \[0.0, 0.0\] \(list\); its space says an array float32 \(2,\)"),
    (InfReward, "reward is not finite in float32: inf"),
    (HugeReward, r"reward is not finite in float32: 1e\+39"),
    (TextReward, r"reward is '1.0' \(str\), not a number"),
    (ArrayReward, r"reward is an array float64 \(1,\), not a number"),
    (NoReward, r"reward is None \(NoneType\), not a number"),
    (NumberFlag, r"terminated is 1 \(int\), not a bool"),
    (OldStep, r"step\(\) gave a tuple of 4, not a tuple \(observation, reward, terminated,"),
]


class OldReset(Sound):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed)[0]


class NanReset(Sound):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.full(2, np.nan, np.float32), {}


class NoSeed(Sound):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class Unseeded(Sound):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.at = 0
        return np.random.default_rng().uniform(-1, 1, 2).astype(np.float32), {}


class UnseededSteps(Sound):
    def broken(self, result: Result) -> Any:
        return (np.random.default_rng().uniform(-1, 1, 2).astype(np.float32), *result[1:])


class AlwaysRaises(Sound):
    def broken(self, result: Result) -> Any:
        raise RuntimeError("the motor\nis stuck")


class NoSpaces(Sound):
    observation_space = spaces.Text(5)


class WholeBox(Sound):
    action_space = spaces.Box(0, 9, (1,), np.int64)


CHECKED = [
    *IN_STEP_3,
    (OldReset, r"reset\(\) gave an array float32 \(2,\), not a tuple \(observation, info\)"),
    (NanReset, r"slot 0, step 0 of episode 0: observation is not finite: \[nan, nan\]"),
    (NoSeed, r"its reset\(\) does not take seed and options"),
    (Unseeded, "two resets with one seed show two different observations"),
    (UnseededSteps, "not determined by its seed: .* something else in step 3"),
    (AlwaysRaises, "step 3 of episode 0: raised RuntimeError: the motor is stuck"),
    (NoSpaces, "observation is Text.*; it may be Box, Discrete"),
    (WholeBox, r"action is int64 \(1,\); it may be Discrete, .* or a Box of floats"),
]


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    yield
    gymnasium.registry.pop(NAME, None)


def drive(kind: Any, count: int = 2, waits: list[float] | None = None) -> Environments:
    """A driver of `kind`, reset; what it waits for is only noted."""
    gymnasium.register(NAME, entry_point=kind)
    noted = [] if waits is None else waits
    driver = Environments(NAME, {}, count, wait=noted.append)
    driver.reset(SEEDS)
    return driver


def idle(driver: Environments, steps: int) -> list[environments.Transition]:
    return [driver.step(np.zeros(driver.count, np.int64)) for _ in range(steps)]


@pytest.mark.parametrize(("kind", "told"), IN_STEP_3)
def test_what_breaks_its_spaces_ends_at_once(kind: Any, told: str) -> None:
    driver = drive(kind)
    idle(driver, 2)
    with pytest.raises(
        EnvironmentFaultError, match=rf"^environment '{NAME}', slot 0, step 3 of episode 0: {told}"
    ):
        idle(driver, 1)


@pytest.mark.parametrize(("kind", "told"), CHECKED)
def test_check_says_what_is_wrong_in_one_line(kind: Any, told: str) -> None:
    gymnasium.register(NAME, entry_point=kind)
    with pytest.raises(UserError, match=told) as caught:
        report(NAME, {})
    assert str(caught.value).startswith(f"environment '{NAME}'")
    assert "\n" not in str(caught.value)


def test_what_fails_now_and_then_may_be_learned_where_it_need_not_be_determined() -> None:
    Patchy.resets = 0
    gymnasium.register(NAME, entry_point=Patchy)
    assert "sound: " in (line := report(NAME, {}, determined=False))
    assert re.search(r"failed \d+ times$", line)
    with pytest.raises(UserError, match="raised AssertionError: every other time"):
        report(NAME, {})


def test_an_action_out_of_bounds_names_its_row() -> None:
    driver = drive(Sound)
    idle(driver, 1)
    for wrong in (2, -1):
        with pytest.raises(
            EnvironmentFaultError, match=rf"slot 1, step \d .*: action {wrong} is out of bounds in"
        ):
            driver.step(np.array([0, wrong]))


def test_a_continuous_action_that_is_not_finite_names_its_row() -> None:
    driver = Environments("Pendulum-v1", {}, 2)
    driver.reset(SEEDS)
    with pytest.raises(
        EnvironmentFaultError, match=r"'Pendulum-v1', slot 1, step 1 .*\[nan\] is not finite"
    ):
        driver.step(np.array([[0.0], [np.nan]], np.float32))


def test_actions_of_another_shape_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"actions are int64 \(3,\), not Discrete\(2\) for each"):
        drive(Sound).step(np.zeros(3, np.int64))


class Flaky(Sound):
    """Raises in the third step of the second environment's first episodes."""

    made = 0
    fails = 1

    def __init__(self) -> None:
        Flaky.made += 1
        self.number = Flaky.made

    def broken(self, result: Result) -> Any:
        if self.number > 1 and Flaky.fails:
            Flaky.fails -= 1
            raise OSError("gone")
        return result


def test_a_failure_now_and_then_is_mended_and_counted() -> None:
    Flaky.made, Flaky.fails = 0, 1
    waits: list[float] = []
    driver = drive(Flaky, waits=waits)
    steps = idle(driver, 12)
    assert [step.skipped.tolist() for step in steps[:4]] == [[], [], [1], []]
    assert all(step.skipped.size == 0 for step in steps[3:])
    assert steps[2].reward.tolist() == [1.0, 0.0]
    assert steps[2].ended.size == 0
    assert driver.restarts == 1
    assert waits == [0.1]
    assert Flaky.made == 3
    # The first ended its first episode at step 10; the second was begun anew in step 3.
    assert steps[9].ended.tolist() == [0]
    assert driver.episodes.tolist() == [1, 1]


class Patchy(Sound):
    """Fails in every other episode."""

    resets = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        Patchy.resets += 1
        return super().reset(seed=seed)

    def broken(self, result: Result) -> Any:
        assert Patchy.resets % 2, "every other time"
        return result


def test_failures_with_an_episode_between_them_never_end_it() -> None:
    Patchy.resets = 0
    waits: list[float] = []
    driver = drive(Patchy, 1, waits)
    steps = idle(driver, 13 * 8)
    assert sum(step.ended.size for step in steps) == 8
    assert driver.restarts == 8
    assert waits == [0.1] * 8


def test_what_always_fails_ends_with_its_own_message() -> None:
    waits: list[float] = []
    driver = drive(AlwaysRaises, 1, waits)
    told = "step 3 of episode 4: raised RuntimeError: the motor is stuck, 5 times in a row"
    with pytest.raises(EnvironmentFaultError, match=told):
        idle(driver, 100)
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_what_cannot_be_reset_ends_with_its_own_message() -> None:
    gymnasium.register(NAME, entry_point=NoSeed)
    driver = Environments(NAME, {}, 1, wait=lambda seconds: None)
    with pytest.raises(
        EnvironmentFaultError, match=r"step 0 .* unexpected keyword argument 'seed'"
    ):
        driver.reset(SEEDS)


def test_what_cannot_be_made_ends_with_its_own_message() -> None:
    def refuse() -> Sound:
        raise OSError("no display")

    gymnasium.register(NAME, entry_point=refuse)
    waits: list[float] = []
    with pytest.raises(EnvironmentFaultError, match="slot 0, being made: raised OSError: no displ"):
        Environments(NAME, {}, 1, wait=waits.append)
    assert len(waits) == 4
    with pytest.raises(UserError, match="cannot be made: OSError: no display"):
        report(NAME, {})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("CartPol-v1", "did you mean 'CartPole-v1'"),
        ("cartpole-v1", "did you mean 'CartPole-v1'"),
        ("no_such_package:Thing", "there is no module 'no_such_package'; install it, or put"),
        ("gymnasium.envs.classic_control:CartPoleEn", "did you mean 'CartPoleEnv'"),
        ("gymnasium.envs.classic_control.cartpole:math.pi", "neither a class nor a function"),
        ("math:sqrt", "sqrt"),
    ],
)
def test_an_unknown_name_gets_a_hint(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        environments.make(name, {})


def test_an_unknown_option_is_told() -> None:
    with pytest.raises(UserError, match="unexpected keyword argument 'colour'"):
        environments.make("CartPole-v1", {"colour": 1})


def test_a_missing_package_is_told() -> None:
    gymnasium.register(NAME, entry_point="a_missing_package.worlds:World")
    with pytest.raises(UserError, match="needs the package 'a_missing_package'; install it"):
        environments.make(NAME, {})


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vectorised_environment_that_fails_begins_anew(mode: AutoresetMode) -> None:
    Flaky.made, Flaky.fails = 0, 1
    driver = Vectorised(
        "flaky",
        lambda: SyncVectorEnv([Flaky, Flaky], autoreset_mode=mode),
        Patience(),
        lambda seconds: None,
    )
    Flaky.made = 0  # Gymnasium makes one more, to look at
    driver.reset(SEEDS)
    steps = [driver.step(np.zeros(2, np.int64)) for _ in range(13)]
    assert driver.restarts == 1
    assert [step.skipped.tolist() for step in steps[:4]] == [[], [], [0, 1], []]
    assert steps[12].ended.tolist() == [0, 1]
    assert driver.episodes.tolist() == [2, 2]


def test_a_vectorised_environment_is_checked_too() -> None:
    driver = Vectorised(
        "nan", lambda: SyncVectorEnv([Sound, NanSeen]), Patience(), lambda seconds: None
    )
    driver.reset(SEEDS)
    actions = np.zeros(2, np.int64)
    for _ in range(2):
        driver.step(actions)
    with pytest.raises(EnvironmentFaultError, match=r"'nan', slot 1, step 3 .* is not finite"):
        driver.step(actions)


def test_check_env_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    gymnasium.register(NAME, entry_point=Sound)
    assert cli.main(["check-env", NAME, "--option", "max_episode_steps=5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{NAME}: sound: observation float32 (2,), action Discrete(2), ")
    assert out.endswith(" steps/s\n")
    assert cli.main(["check-env", "CartPol-v1"]) == 2
    assert capsys.readouterr().err.startswith("troupe: environment 'CartPol-v1': Gymnasium knows")
    assert cli.main(["check-env", NAME, "--option", "colour"]) == 2
    assert "key=value" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Blackjack-v1"])
def test_gymnasiums_own_are_sound(name: str) -> None:
    assert f"{name}: sound: " in report(name, {})
