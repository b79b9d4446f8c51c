"""The evaluator: judges the newest weights while they are learned, at the lowest priority."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol

import torch

from troupe.jobs.setting import Connections, WorkerSetting
from troupe.jobs.spec import EnvironmentSettings, Job
from troupe.weights.client import Weights
from troupe.weights.errors import DamagedError, MissingError, UnreachableError
from troupe_actors import agents, arena, deals, equilibrium, text_trials, trials
from troupe_actors.agents.policy import PolicyAgent
from troupe_actors.completions import POLICY
from troupe_actors.text_trials import Exam
from troupe_actors.trials import Soloist

log = logging.getLogger("troupe.evaluator")

NICENESS = 15
SEED = 0
"""Deals and episodes are those that `troupe eval` plays by default."""
ENGINE = "tiny"
"""What answers prompts here: one that takes a share of a GPU's memory finds none beside the actors'."""
_LOOK_SECONDS = 0.5


class Evaluator:
    """The worker of role `evaluator`."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting

    def run(self) -> None:
        """Judge every `evaluation.every` seconds until the run is told to stop.

        Raises:
            UserError: an opponent or the environment is not to be had.
            TroupeError: the store or the weight server is gone for good, or an agent or the
                environment failed.
        """
        os.setpriority(os.PRIO_PROCESS, 0, max(os.nice(0), NICENESS))
        torch.set_num_threads(1)
        with self._setting.open() as ends:
            Judge(ends).run()


class Trial(Protocol):
    """What a policy is judged by."""

    policies: Sequence[str]
    """Those whose weights it needs."""

    def load(self, policy: str, weights: Weights) -> None:
        """Take the weights of one policy."""
        ...

    def judge(self, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """Results by name, without the prefix `eval/`; None where `stopped` said so meanwhile."""
        ...

    def close(self) -> None:
        """Nothing is judged any more."""
        ...


class Matches:
    """Deals of a game, against every opponent of the job."""

    def __init__(self, job: Job) -> None:
        self._game = arena.game_of(job)
        self._agent = PolicyAgent(job.name, self._game, job)
        self.policies: Sequence[str] = sorted(set(self._agent.policies))
        self._opponents = [
            agents.load(name, self._game, key="evaluation.against")
            for name in job.evaluation.against
        ]
        self._deals = deals.generate(self._game, job.evaluation.deals, SEED)
        self._yardstick = equilibrium.yardstick(job, self._game)

    def load(self, policy: str, weights: Weights) -> None:
        """See `Trial`."""
        self._agent.load(policy, weights.tensors)

    def judge(self, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """See `Trial`."""
        shown: dict[str, float] = {}
        for opponent in self._opponents:
            result = arena.judge(self._game, self._deals, self._agent, opponent, stopped=stopped)
            if result is None:
                return None
            wp = result.overall.wp
            shown[f"{result.against}/wp"] = wp.mean
            shown[f"{result.against}/wp_low"] = wp.low
            shown[f"{result.against}/wp_high"] = wp.high
            shown[f"{result.against}/adp"] = result.overall.adp.mean
        if self._yardstick is not None:
            measured = self._yardstick.measure(self._agent.name, self._agent.acting)
            shown["nash_conv"] = measured.nash_conv
        return shown

    def close(self) -> None:
        """See `Trial`."""


class Solo:
    """Episodes of an environment."""

    def __init__(self, job: Job, settings: EnvironmentSettings) -> None:
        self._count = job.evaluation.episodes
        self._driver = trials.make(settings, self._count)
        self._soloist = Soloist(job.name, job, self._driver.spaces)
        self.policies: Sequence[str] = [self._soloist.policy]

    def load(self, policy: str, weights: Weights) -> None:
        """See `Trial`."""
        self._soloist.acting.load(weights.tensors)

    def judge(self, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """See `Trial`."""
        result = trials.judge(self._driver, self._soloist, self._count, SEED, stopped)
        if result is None:
            return None
        mean, low, high = result.interval
        shown = {"return": mean, "return_low": low, "return_high": high}
        return {**shown, "length": float(result.lengths.mean())}

    def close(self) -> None:
        """See `Trial`."""
        self._driver.close()


class Questions:
    """Prompts for a language model."""

    policies: Sequence[str] = (POLICY,)

    def __init__(self, job: Job) -> None:
        settings = text_trials.settings_of(job)
        engine = replace(settings.engine, name=ENGINE)
        self._exam = Exam(job.name, replace(settings, engine=engine))

    def load(self, policy: str, weights: Weights) -> None:
        """See `Trial`."""
        self._exam.load(weights.version, weights.tensors, weights.bfloat16)

    def judge(self, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """See `Trial`."""
        result = self._exam.judge(SEED, stopped)
        return None if result is None else result.gauges()

    def close(self) -> None:
        """See `Trial`."""
        self._exam.close()


class Judge:
    """One life of the evaluator."""

    def __init__(self, ends: Connections) -> None:
        self._ends = ends
        self._every = ends.job.evaluation.every
        self._trial = trial_of(ends.job)
        self._stop = ends.reporter.stop

    def run(self) -> None:
        """See `Evaluator.run`."""
        with closing(self._trial):
            while not self._stop.is_set():
                due = time.monotonic() + self._every
                pause = max(0.0, due - time.monotonic()) if self.judge() else _LOOK_SECONDS
                self._stop.wait(pause)

    def judge(self) -> bool:
        """Judge the newest weights; false where there were none to be had."""
        steps = self._steps_trained()
        if not self._fetch():
            return False
        shown = self._trial.judge(self._stop.is_set)
        if shown is not None:
            self._report(shown, steps)
        return True

    def _fetch(self) -> bool:
        """Take the newest weights of every policy; false while some cannot be had."""
        client, policies = self._ends.weights, self._trial.policies
        try:
            if any(client.latest(policy) is None for policy in policies):
                return False
            for policy in policies:
                weights = client.fetch(policy)
                self._trial.load(policy, weights)
                self._ends.metrics.set(f"version/{policy}", weights.version)
        except (DamagedError, MissingError, UnreachableError) as error:
            self._ends.metrics.add("weight_misses")
            log.info("%s; trying again", error)
            return False
        return True

    def _steps_trained(self) -> float:
        """What the learner last said; read before the weights, so that it never claims too much."""
        steps = self._ends.board.snapshots().get("learner-0", {}).get("steps_trained", 0.0)
        return float(steps) if isinstance(steps, int | float) else 0.0

    def _report(self, shown: Mapping[str, float], steps: float) -> None:
        """Set the gauges of one evaluation, its step first: readers take a new step for a new point."""
        metrics = self._ends.metrics
        metrics.set("eval/step", steps)
        for name, value in shown.items():
            metrics.set(f"eval/{name}", value)
        metrics.add("evaluations")


def trial_of(job: Job) -> Trial:
    """What a job's policies are judged by.

    Raises:
        UserError: an opponent, the environment, or what a language model is judged by is not to be
            had.
    """
    if job.environment is not None:
        return Solo(job, job.environment)
    if job.game is not None:
        return Matches(job)
    return Questions(job)
