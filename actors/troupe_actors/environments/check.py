"""Whether an environment is sound: it is made, reset and stepped at random, twice with one seed."""

import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xxhash
from gymnasium import spaces

from troupe.episodes import Columns
from troupe.errors import TroupeError, UserError
from troupe_actors.environments.faults import EnvironmentFaultError, Patience, told
from troupe_actors.environments.making import create, find, is_vectorised, make
from troupe_actors.environments.observations import ALONE, shown_space
from troupe_actors.environments.transition import Driver, Seeds, Transition

STEPS = 500
MOST_STEPS = 5000
"""Where no episode ends sooner."""
MOST_SECONDS = 5.0
_SEEDS = Seeds(0, "check", 0)
_ONCE = Patience(failures=1)
_THRICE = Patience(failures=3, first_wait=0.0)


@dataclass(frozen=True, slots=True)
class Trial:
    """What random actions met."""

    seen: list[int]
    """A hash of every step, the first observation's first."""
    steps_per_second: float
    episodes: int
    """Those that came to their end."""
    out_of_bounds: tuple[str, ...]
    """Columns whose values left their Box."""


def report(
    name: str,
    options: Mapping[str, object],
    *,
    seconds: float = MOST_SECONDS,
    determined: bool = True,
) -> str:
    """One line that says that the environment is sound, and how it looks.

    It is stepped for `seconds` at most, and again as long. One that is not determined by its seed
    is refused where it has to be `determined`, and so is one that ever fails; elsewhere the line
    says so.

    Raises:
        UserError: one line that says what is wrong with it.
    """
    patience = _ONCE if determined else _THRICE
    try:
        _check_signatures(name, options)
        first = create(name, options, 1, patience=patience)
        second = create(name, options, 1, patience=patience)
        try:
            chance = _compared_resets(first)
            trial = _try(first, MOST_STEPS, seconds)
            again = _try(second, len(trial.seen) - 1, 2 * seconds)
        finally:
            first.close()
            second.close()
    except EnvironmentFaultError as fault:
        raise UserError(str(fault)) from None
    chance = chance or _compared_steps(trial, again)
    if chance and determined:
        raise UserError(f"environment {name!r}: not determined by its seed: {chance}")
    line = f"{name}: sound: {_described(first, trial)}"
    if failures := first.restarts + second.restarts:
        return f"{line}, failed {failures} times"
    return f"{line}, not determined by its seed: {chance}" if chance else line


def _check_signatures(name: str, options: Mapping[str, object]) -> None:
    maker = find(name)
    if maker is not None and is_vectorised(maker):
        return
    try:
        env = make(name, options)
    except TroupeError:
        raise
    except Exception as error:
        raise UserError(f"environment {name!r}: cannot be made: {told(error)}") from error
    env.close()
    parameters = inspect.signature(env.unwrapped.reset).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    missing = [word for word in ("seed", "options") if word not in parameters]
    if missing and not anything:
        raise UserError(
            f"environment {name!r}: its reset() does not take {' and '.join(missing)}; Gymnasium's "
            "is reset(self, *, seed=None, options=None)"
        )


def _compared_resets(driver: Driver) -> str:
    """What two resets with one seed differ in; empty where they do not."""
    one, other = driver.reset(_SEEDS), driver.reset(_SEEDS)
    for name, column in one.items():
        if column.tobytes() != other[name].tobytes():
            what = "" if name == ALONE else f" {name!r}"
            return f"two resets with one seed show two different observations{what}"
    return ""


def _compared_steps(trial: Trial, again: Trial) -> str:
    """What two trials with one seed differ in; empty where they do not."""
    for step, (one, other) in enumerate(zip(trial.seen, again.seen, strict=False)):
        if one != other:
            return f"the same actions after reset(seed=...) led to something else in step {step}"
    return ""


def _try(driver: Driver, most: int, seconds: float) -> Trial:
    """Step at random; past STEPS only until an episode has ended."""
    action = driver.spaces.action
    action.seed(0)
    seen = [_hash(driver.reset(_SEEDS))]
    episodes, spent, outside = 0, 0.0, set[str]()
    while len(seen) <= most and spent < seconds and (len(seen) <= STEPS or not episodes):
        drawn = np.stack([action.sample() for _ in range(driver.count)])
        start = time.perf_counter()
        met = driver.step(drawn)
        spent += time.perf_counter() - start
        episodes += len(met.ended)
        outside |= _outside(driver, met)
        seen.append(_hash(met.observation, met.final, _signals(met)))
    rate = (len(seen) - 1) * driver.count / max(spent, 1e-9)
    return Trial(seen, rate, episodes, tuple(sorted(outside)))


def _hash(*parts: Columns) -> int:
    state = xxhash.xxh3_64()
    for columns in parts:
        for column in columns.values():
            state.update(column.tobytes())
    return state.intdigest()


def _signals(met: Transition) -> Columns:
    return {"reward": met.reward, "terminated": met.terminated, "truncated": met.truncated}


def _outside(driver: Driver, met: Transition) -> set[str]:
    """The columns that hold a value outside their Box."""
    return {
        name
        for name, space in driver.spaces.observation.items()
        if isinstance(space, spaces.Box)
        and ((met.observation[name] < space.low) | (met.observation[name] > space.high)).any()
    }


def _described(driver: Driver, trial: Trial) -> str:
    observation = ", ".join(
        shown_space(space) if name == ALONE else f"{name} {shown_space(space)}"
        for name, space in driver.spaces.observation.items()
    )
    action = driver.spaces.action
    ranged = f" in {_range(action)}" if isinstance(action, spaces.Box) else ""
    facts = [
        f"observation {observation}",
        f"action {shown_space(action)}{ranged}",
        f"{trial.steps_per_second:,.0f} steps/s",
    ]
    if not trial.episodes:
        facts.append(f"no episode ended in {len(trial.seen) - 1:,} random steps")
    facts += [f"{name} leaves its bounds" for name in trial.out_of_bounds]
    return ", ".join(facts)


def _range(space: spaces.Box) -> str:
    low, high = np.unique(space.low), np.unique(space.high)
    return f"[{low[0]:g}, {high[0]:g}]" if len(low) == len(high) == 1 else "bounds of their own"
