"""Judging a policy in an environment: whole episodes, many side by side."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gymnasium import spaces as gym
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from troupe import checkpoint as checkpoints
from troupe import seeding
from troupe.checkpoint import CheckpointError
from troupe.episodes import Array, Columns
from troupe.errors import TroupeError, UserError
from troupe.jobs.roles import AGENT
from troupe.jobs.spec import EnvironmentSettings, Job
from troupe.policies import Acting, Decisions, Spaces
from troupe.runs import RunFolder
from troupe_actors.environments import Driver, Seeds, create
from troupe_actors.sources import make_acting
from troupe_actors.statistics import Interval, mean_interval

AT_ONCE = 16
"""Environments that are stepped side by side."""
ROLE = "trial"


@dataclass(frozen=True, slots=True)
class Result:
    """What N episodes have shown."""

    agent: str
    environment: str
    returns: NDArray[np.float64]
    """[N]: undiscounted."""
    lengths: NDArray[np.int64]
    """[N]: steps."""
    seed: int
    restarts: int
    """How often the environment failed; such an episode is played anew from another seed."""
    seconds: float

    @property
    def interval(self) -> Interval:
        """The mean return, with its 95 % confidence interval."""
        return mean_interval(self.returns)

    @property
    def error(self) -> float:
        """Standard error of the mean return; NaN for a single episode."""
        count = len(self.returns)
        return float(self.returns.std(ddof=1)) / count**0.5 if count > 1 else float("nan")

    def data(self) -> dict[str, object]:
        """All of it as JSON can hold it."""
        mean, low, high = (_number(value) for value in self.interval)
        return {
            "agent": self.agent,
            "environment": self.environment,
            "episodes": len(self.returns),
            "seed": self.seed,
            "return": {
                "mean": mean,
                "low": low,
                "high": high,
                "standard_error": _number(self.error),
                "min": float(self.returns.min()),
                "max": float(self.returns.max()),
            },
            "length": {
                "mean": float(self.lengths.mean()),
                "min": int(self.lengths.min()),
                "max": int(self.lengths.max()),
            },
            "restarts": self.restarts,
            "seconds": round(self.seconds, 3),
        }

    def table(self) -> Table:
        """For a person at a terminal."""
        failures = f", {self.restarts:,} restarts" if self.restarts else ""
        table = Table(
            title=f"{self.agent} in {self.environment}",
            title_justify="left",
            title_style="bold",
            caption=f"{len(self.returns):,} episodes, seed {self.seed}, {self.seconds:.0f} s{failures}",
            caption_justify="left",
            box=box.SIMPLE,
            pad_edge=False,
        )
        for heading in ("", "mean", "95 %", "min", "max"):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        mean, low, high = self.interval
        between = f"{low:,.1f} to {high:,.1f}" if np.isfinite(low) else ""
        least, most = self.returns.min(), self.returns.max()
        table.add_row("return", f"{mean:,.1f}", between, f"{least:,.1f}", f"{most:,.1f}")
        shortest, longest = self.lengths.min(), self.lengths.max()
        table.add_row("length", f"{self.lengths.mean():,.1f}", "", f"{shortest:,}", f"{longest:,}")
        return table


class Soloist:
    """The policy of an environment's job; its weights are to be loaded."""

    def __init__(self, name: str, job: Job, spaces: Spaces) -> None:
        self.name = name
        self.policy = job.policies.get(AGENT, AGENT)
        self.acting = make_acting(job, spaces)
        self.exploration = job.evaluation.exploration


def load(folder: Path, spaces: Spaces, checkpoint: str | None = None) -> Soloist:
    """The policy of a run, from its newest checkpoint or the one named.

    Raises:
        UserError: there is no checkpoint of that name.
        CheckpointError: there is no sound checkpoint, or it is of another job.
    """
    run = RunFolder(folder)
    soloist = Soloist(run.name, run.job(), spaces)
    path = run.saved(checkpoint)
    tensors = checkpoints.load_policy(path, soloist.policy)
    try:
        soloist.acting.load(tensors)
    except TroupeError as error:
        raise CheckpointError(f"{path}: {soloist.policy}: {error}; was job.yaml changed?") from None
    return soloist


def evaluate_run(
    run_folder: Path, episodes: int = 100, checkpoint: str | None = None, seed: int = 0
) -> Result:
    """Judge a run's newest (or named) checkpoint in its environment.

    Raises:
        UserError: there is no such checkpoint, or no environment to be had.
        TroupeError: the environment always fails.
    """
    job = RunFolder(run_folder).job()
    assert job.environment is not None
    driver = make(job.environment, episodes)
    try:
        result = judge(driver, load(run_folder, driver.spaces, checkpoint), episodes, seed)
    finally:
        driver.close()
    assert result is not None
    return result


def make(settings: EnvironmentSettings, episodes: int) -> Driver:
    """As many environments as are of use for so many episodes.

    Raises:
        UserError: `episodes` is not positive, or there is no such environment.
    """
    if episodes < 1:
        raise UserError(f"--episodes: {episodes} is not a number of episodes; 1 or more")
    return create(settings.name, settings.options, min(episodes, AT_ONCE))


def judge(
    driver: Driver,
    soloist: Soloist,
    episodes: int,
    seed: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> Result | None:
    """Play episodes from the seed; None where `stopped` said so between two steps.

    Every environment has its own share of the episodes: whichever are over first would be the
    short ones.
    """
    start = time.perf_counter()
    left = np.full(driver.count, episodes // driver.count)
    left[: episodes % driver.count] += 1
    returns: list[float] = []
    lengths: list[int] = []
    restarts = driver.restarts
    random = seeding.stream(seed, ROLE, "actions")
    observation = driver.reset(Seeds(seed, ROLE, 0))
    state = soloist.acting.initial(driver.count)
    while left.any():
        if stopped():
            return None
        decisions = _decisions(observation, driver, state)
        choices = soloist.acting.act(decisions, random, soloist.exploration)
        met = driver.step(_unpacked(choices.action, driver.spaces.action))
        counted = left[met.ended] > 0
        left[met.ended[counted]] -= 1
        returns.extend(met.returns[counted].tolist())
        lengths.extend(met.lengths[counted].tolist())
        observation = met.observation
        state = _begun(choices.state, np.union1d(met.ended, met.skipped), soloist.acting)
    return Result(
        agent=soloist.name,
        environment=driver.name,
        returns=np.array(returns),
        lengths=np.array(lengths),
        seed=seed,
        restarts=driver.restarts - restarts,
        seconds=time.perf_counter() - start,
    )


def _decisions(observation: Columns, driver: Driver, state: Columns) -> Decisions:
    action = driver.spaces.action
    none_listed = np.empty((0, *(action.shape or ())), action.dtype)
    return Decisions(observation, none_listed, np.zeros(driver.count + 1, np.int64), state)


def _unpacked(action: Array, space: gym.Space[NDArray[np.generic]]) -> Array:
    if isinstance(space, gym.MultiBinary):
        return np.unpackbits(action, axis=1, count=int(np.prod(space.shape)), bitorder="little")
    return action


def _begun(state: Columns, rows: NDArray[np.int64], acting: Acting) -> Columns:
    """The recurrent state, as at an episode's beginning in these rows."""
    if not state or not rows.size:
        return state
    first: Mapping[str, Array] = acting.initial(len(rows))
    kept = {name: column.copy() for name, column in state.items()}
    for name, column in kept.items():
        column[rows] = first[name]
    return kept


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if np.isfinite(value) else None
