"""The evaluator: judges the newest weights while they are learned, at the lowest priority."""

import logging
import os
import time

import torch

from troupe.jobs.setting import Connections, WorkerSetting
from troupe.weights.errors import DamagedError, MissingError, UnreachableError
from troupe_actors import agents, arena, deals, games
from troupe_actors.agents.policy import PolicyAgent
from troupe_actors.arena import Result

log = logging.getLogger("troupe.evaluator")

NICENESS = 15
DEALS_SEED = 0
"""The deals are those that `troupe eval` plays by default."""
_LOOK_SECONDS = 0.5


class Evaluator:
    """The worker of role `evaluator`."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting

    def run(self) -> None:
        """Judge every `evaluation.every` seconds until the run is told to stop.

        Raises:
            UserError: an opponent cannot be loaded.
            TroupeError: the store or the weight server is gone for good, or an agent failed.
        """
        os.setpriority(os.PRIO_PROCESS, 0, max(os.nice(0), NICENESS))
        torch.set_num_threads(1)
        with self._setting.open() as ends:
            Judge(ends).run()


class Judge:
    """One life of the evaluator."""

    def __init__(self, ends: Connections) -> None:
        job = ends.job
        self._ends = ends
        self._settings = job.evaluation
        self._game = games.load(job.game.name, job.game.rules)
        self._agent = PolicyAgent(job.name, self._game, job, job.actors.precision)
        self._opponents = [
            agents.load(name, self._game, key="evaluation.against")
            for name in self._settings.against
        ]
        self._deals = deals.generate(self._game, self._settings.deals, DEALS_SEED)
        self._stop = ends.reporter.stop

    def run(self) -> None:
        """See `Evaluator.run`."""
        while not self._stop.is_set():
            due = time.monotonic() + self._settings.every
            pause = max(0.0, due - time.monotonic()) if self.judge() else _LOOK_SECONDS
            self._stop.wait(pause)

    def judge(self) -> bool:
        """Play the newest weights against every opponent; false where there were none to be had."""
        steps = self._steps_trained()
        if not self._fetch():
            return False
        results = []
        for opponent in self._opponents:
            result = arena.judge(
                self._game, self._deals, self._agent, opponent, stopped=self._stop.is_set
            )
            if result is None:
                return True
            results.append(result)
        self._report(results, steps)
        return True

    def _fetch(self) -> bool:
        """Take the newest weights of every policy; false while some cannot be had."""
        client = self._ends.weights
        policies = sorted(set(self._agent.policies))
        try:
            if any(client.latest(policy) is None for policy in policies):
                return False
            for policy in policies:
                weights = client.fetch(policy)
                self._agent.load(policy, weights.tensors)
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

    def _report(self, results: list[Result], steps: float) -> None:
        """Set the gauges of one evaluation, its step first: readers take a new step for a new point."""
        metrics = self._ends.metrics
        metrics.set("eval/step", steps)
        for result in results:
            wp = result.overall.wp
            about = f"eval/{result.against}"
            metrics.set(f"{about}/wp", wp.mean)
            metrics.set(f"{about}/wp_low", wp.low)
            metrics.set(f"{about}/wp_high", wp.high)
            metrics.set(f"{about}/adp", result.overall.adp.mean)
        metrics.add("evaluations")
