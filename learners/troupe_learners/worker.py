"""The learner: takes blocks, updates policies, publishes their weights, saves checkpoints."""

import time
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from troupe.checkpoint import Position
from troupe.errors import TroupeError
from troupe.jobs.roles import policies_of
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.jobs.spec import Job
from troupe.policies import Spaces
from troupe.policies.devices import resolve_device, resolve_precision
from troupe.store.replay import Limits
from troupe_learners import algorithms
from troupe_learners.intake import Intake
from troupe_learners.publisher import Publisher
from troupe_learners.ring import Ring
from troupe_learners.saving import Origin, Progress, Saver
from troupe_learners.trainee import Hardware, Trainee

_WAIT_SECONDS = 0.2
_MAX_RETAINED_BYTES = 256 * 1024 * 1024


class Learner:
    """The worker of role `learner`."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting

    def run(self) -> None:
        """Train until the job's limits are reached or the run is told to stop; save; return.

        Raises:
            CheckpointError: the newest checkpoint is not sound or not this job's, or the last one
                could not be saved.
            TroupeError: the store or the weight server is gone for good, or training diverged.
        """
        with self._setting.open() as ends:
            torch.set_num_threads(ends.job.learner.threads)
            Session(self._setting, ends, policies_of(ends.job)).run()


class Session:
    """One life of the learner."""

    def __init__(
        self, setting: WorkerSetting, ends: Connections, policies: Mapping[str, Spaces]
    ) -> None:
        """Go on from the newest checkpoint, if there is one.

        Raises:
            CheckpointError, UserError, TroupeError: as `Learner.run`.
        """
        self._job = ends.job
        self._ends = ends
        self._metrics = ends.metrics
        self._algorithm = algorithms.load(ends.job.algorithm)
        self._trainees = _trainees(ends.job, self._algorithm, policies)
        self._progress = Progress()
        self._saver = Saver(
            ends.job.checkpoint,
            Origin(
                setting.run, ends.job.game.name, str(ends.job.algorithm["name"]), setting.run_folder
            ),
            self._trainees,
            self._progress,
            ends.metrics,
            ends.replay.acknowledge,
        )
        position = self._position(self._saver.restore())
        self._restore_store(position)
        self._ring = Ring(self._trainees, self._algorithm.plan.batch, position)
        self._intake = Intake(
            ends.replay, self._ring, self._algorithm, frozenset(policies), ends.metrics
        )
        self._publisher = Publisher(ends.weights, ends.replay, ends.metrics, ends.reporter.stop)

    def run(self) -> None:
        """See `Learner.run`."""
        with ExitStack() as stack:
            stack.enter_context(self._saver)
            stack.enter_context(self._publisher)
            for trainee in self._trainees.values():
                self._publisher.publish(trainee.name, trainee.updates, trainee.weights())
            stack.enter_context(self._intake)
            self._report_totals()
            while not self._over():
                self._turn()
            self._saver.save(self._ring.position)
            self._publisher.finish()

    def _turn(self) -> None:
        """Wait a little for a full batch of any policy and train on it; save when it is time."""
        self._intake.check()
        if self._intake.emptied.is_set():
            self._begin_anew()
        policy = self._next()
        if policy is not None and not self._drop_stale(policy):
            self._train(self._trainees[policy])
        wanted = self._intake.checkpoint_wanted.is_set()
        self._saver.save_if_due(self._ring.position, wanted=wanted)

    def _next(self) -> str | None:
        """The policy whose turn it is."""
        before = time.monotonic()
        policy = self._ring.ready(_WAIT_SECONDS)
        if self._progress.training:
            self._metrics.add("blocked_seconds", time.monotonic() - before)
        elif policy is not None:
            self._progress.start()
        return policy

    def _drop_stale(self, policy: str) -> bool:
        """Discard blocks that became too old while they waited."""
        oldest = self._trainees[policy].updates - self._job.store.max_staleness
        dropped = self._ring.drop(policy, older_than=oldest)
        if dropped:
            self._consume(dropped)
            self._metrics.add("stale_steps", dropped)
        return dropped > 0

    def _train(self, trainee: Trainee) -> None:
        columns = self._ring.take(trainee.name)
        batch = self._algorithm.plan.batch
        # Said before the update, so that actors fill the queue while it runs.
        self._consume(batch)
        # After a learner's death blocks may come from versions that are yet to be trained again.
        age = np.maximum(trainee.updates - columns[algorithms.VERSION], 0)
        scalars = trainee.train(columns)
        self._progress.steps += batch
        self._metrics.set("staleness", float(age.mean()))
        self._metrics.set("staleness_max", int(age.max()))
        self._report(trainee, scalars)
        self._publisher.publish(trainee.name, trainee.updates, trainee.weights())

    def _consume(self, steps: int) -> None:
        self._progress.consumed += steps
        self._ends.replay.sampled(steps)

    def _over(self) -> bool:
        limits = self._job.stop
        updates = sum(trainee.updates for trainee in self._trainees.values())
        return (
            self._ends.reporter.stop.is_set()
            or (limits.steps is not None and self._progress.steps >= limits.steps)
            or (limits.updates is not None and updates >= limits.updates)
            or (limits.minutes is not None and self._progress.seconds >= 60 * limits.minutes)
        )

    def _report(self, trainee: Trainee, scalars: Mapping[str, Tensor]) -> None:
        """Read an update's scalars from the device, all in one copy, before anyone gets its weights."""
        values = dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True))
        for name in ("loss",) if trainee.skips_overflow else ("loss", "grad_norm"):
            if not np.isfinite(values[name]):
                raise TroupeError(
                    f"learner: the {name} of {trainee.name} is {values[name]} at update "
                    f"{trainee.updates}; lower algorithm.optimizer.lr, and resume"
                )
        for name, value in values.items():
            if np.isfinite(value):
                self._metrics.set(f"{name}/{trainee.name}", value)
        self._report_totals()

    def _report_totals(self) -> None:
        self._metrics.set("steps_trained", self._progress.steps)
        self._metrics.set("training_seconds", self._progress.seconds)
        self._metrics.set("updates", sum(t.updates for t in self._trainees.values()))
        for trainee in self._trainees.values():
            self._metrics.set(f"updates/{trainee.name}", trainee.updates)

    # The store.

    def _position(self, saved: Position | None) -> Position:
        """Where to go on: a store that came back empty has nothing that was ever consumed."""
        generation = self._ends.store.generation() or ""
        known = saved is not None and saved.generation == generation
        return saved if saved is not None and known else Position(generation=generation)

    def _begin_anew(self) -> None:
        """The store lost its memory: what waited here goes with it, new blocks will come."""
        self._restore_store(Position())
        self._intake.resume(self._position(None))

    def _restore_store(self, position: Position) -> None:
        capacity = self._job.store.capacity
        retained = min(_MAX_RETAINED_BYTES, self._job.store.memory_mb * 2**20 // 2)
        # Rows behind the position that are consumed already are counted when they come again.
        self._ends.replay.restore(
            samples=self._progress.consumed - sum(position.rows.values()),
            versions={trainee.name: trainee.updates for trainee in self._trainees.values()},
            attempt=self._ends.attempt,
            position=position.after,
        )
        self._ends.replay.configure(Limits(capacity, self._job.store.max_staleness, retained))
        self._metrics.set("capacity_steps", capacity)


def _trainees(
    job: Job, algorithm: algorithms.Algorithm, policies: Mapping[str, Spaces]
) -> dict[str, Trainee]:
    device = resolve_device(job.learner.device)
    hardware = Hardware(device, resolve_precision(job.learner.precision, device))
    return {
        name: Trainee(name, spaces, job.network, algorithm, hardware, job.seed)
        for name, spaces in policies.items()
    }
