"""The learner: takes blocks, updates policies, publishes their weights, saves checkpoints."""

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from troupe import checkpoint
from troupe.checkpoint import Checkpoint, CheckpointError, Position
from troupe.episodes import Array
from troupe.errors import TroupeError
from troupe.jobs.roles import policies_of
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.jobs.spec import Job
from troupe.policies import Spaces
from troupe.policies.devices import resolve_device, resolve_precision
from troupe.store.replay import Limits
from troupe_learners import algorithms
from troupe_learners.background import Background
from troupe_learners.intake import Intake
from troupe_learners.publisher import Publisher
from troupe_learners.ring import Ring
from troupe_learners.trainee import Hardware, Trainee

log = logging.getLogger("troupe.learner")

SHARD = "0"
"""The one shard of the store that this learner reads."""
_WAIT_SECONDS = 0.2
_RETRY_SECONDS = 10.0
_MAX_RETAINED_BYTES = 256 * 1024 * 1024


class Learner:
    """The worker of role `learner`."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting

    def run(self) -> None:
        """Train until the job's limits are reached or the run is told to stop; save; return.

        Raises:
            CheckpointError: the newest checkpoint is not sound or not this run's; or the last one
                could not be saved.
            TroupeError: the store or the weight server is gone for good, or training diverged.
        """
        with self._setting.open() as ends:
            torch.set_num_threads(ends.job.learner.threads)
            Session(self._setting, ends, policies_of(ends.job)).run()


class Session:
    """One life of the learner.

    Raises:
        CheckpointError: as `Learner.run`.
    """

    def __init__(
        self, setting: WorkerSetting, ends: Connections, policies: Mapping[str, Spaces]
    ) -> None:
        self._setting = setting
        self._ends = ends
        self._job = ends.job
        self._metrics = ends.metrics
        self._algorithm = algorithms.load(ends.job.algorithm)
        self._trainees = _trainees(ends.job, self._algorithm, policies)
        self._steps = 0
        self._consumed = 0
        """Steps trained on or dropped."""
        self._seconds_before = 0.0
        self._started: float | None = None
        """When the first batch was there."""
        self._saved_at = time.monotonic()
        position = self._restore()
        self._ring = Ring(self._trainees, self._algorithm.plan.batch, position)

    def run(self) -> None:
        """See `Learner.run`."""
        ends = self._ends
        with ExitStack() as stack:
            self._saver = stack.enter_context(Background("saver"))
            self._publisher = stack.enter_context(
                Publisher(ends.weights, ends.replay, ends.metrics, ends.reporter.stop)
            )
            for trainee in self._trainees.values():
                self._publisher.publish(trainee.name, trainee.updates, trainee.weights())
            policies = frozenset(self._trainees)
            self._intake = stack.enter_context(
                Intake(ends.replay, self._ring, self._algorithm, policies, self._metrics)
            )
            self._report_totals()
            while not self._over():
                self._turn()
            self._saver.finish()
            self._write(self._snapshot())
            self._publisher.finish()

    def _turn(self) -> None:
        """Wait for a full batch of any policy and train on it; save when it is time."""
        self._intake.check()
        if self._intake.emptied.is_set():
            self._begin_anew()
        policy = self._next()
        if policy is not None and not self._drop_stale(policy):
            self._train(self._trainees[policy])
        self._save_if_due()

    def _next(self) -> str | None:
        """The policy whose turn it is, waited for a little."""
        before = time.monotonic()
        policy = self._ring.ready(_WAIT_SECONDS)
        now = time.monotonic()
        if self._started is None:
            self._started = now if policy else None
        else:
            self._metrics.add("blocked_seconds", now - before)
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
        # Said before the update, so that actors fill the queue while it runs.
        self._consume(self._algorithm.plan.batch)
        staleness = trainee.updates - columns[algorithms.VERSION]
        scalars = trainee.train(columns)
        self._steps += self._algorithm.plan.batch
        self._publisher.publish(trainee.name, trainee.updates, trainee.weights())
        self._report(trainee, scalars, staleness)

    def _consume(self, steps: int) -> None:
        self._consumed += steps
        self._ends.replay.sampled(steps)

    def _over(self) -> bool:
        limits = self._job.stop
        updates = sum(trainee.updates for trainee in self._trainees.values())
        return (
            self._ends.reporter.stop.is_set()
            or (limits.steps is not None and self._steps >= limits.steps)
            or (limits.updates is not None and updates >= limits.updates)
            or (limits.minutes is not None and self._seconds >= 60 * limits.minutes)
        )

    @property
    def _seconds(self) -> float:
        """Seconds of training over all lives, from the first batch of each."""
        now = time.monotonic()
        return self._seconds_before + (now - self._started if self._started is not None else 0.0)

    def _report(self, trainee: Trainee, scalars: dict[str, Tensor], staleness: Array) -> None:
        values = dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True))
        if not np.isfinite(values["loss"]):
            raise TroupeError(
                f"learner: the loss of {trainee.name} is {values['loss']} at update "
                f"{trainee.updates}; lower algorithm.optimizer.lr, and resume"
            )
        for name, value in values.items():
            self._metrics.set(f"{name}/{trainee.name}", value)
        self._metrics.set("staleness", float(np.mean(staleness)))
        self._metrics.set("staleness_max", int(np.max(staleness)))
        self._report_totals()

    def _report_totals(self) -> None:
        self._metrics.set("steps_trained", self._steps)
        self._metrics.set("training_seconds", self._seconds)
        self._metrics.set("updates", sum(t.updates for t in self._trainees.values()))
        for trainee in self._trainees.values():
            self._metrics.set(f"updates/{trainee.name}", trainee.updates)

    # Checkpoints.

    def _save_if_due(self) -> None:
        since = time.monotonic() - self._saved_at
        wanted = self._intake.checkpoint_wanted.is_set() and since > 1.0
        if (since >= self._job.checkpoint.every or wanted) and self._saver.finish(timeout=0):
            self._saved_at = time.monotonic()
            state = self._snapshot()
            self._saver.run(lambda: self._try_to_write(state))

    def _snapshot(self) -> Checkpoint:
        """A copy of all that the next life of the learner needs."""
        trainees = self._trainees.values()
        return Checkpoint(
            run=self._setting.run,
            game=self._job.game.name,
            algorithm=str(self._job.algorithm["name"]),
            step=self._steps,
            updates={t.name: t.updates for t in trainees},
            weights={t.name: t.weights() for t in trainees},
            optimizers={t.name: t.optimizer_state() for t in trainees},
            counters={"training_seconds": self._seconds, "consumed": self._consumed},
            positions={SHARD: self._ring.position},
            random={t.name: t.random_state() for t in trainees},
        )

    def _try_to_write(self, state: Checkpoint) -> None:
        """Save in mid-run: a full disk does not end the training, the next save may go well."""
        try:
            self._write(state)
        except CheckpointError as error:
            self._metrics.add("checkpoint_failures")
            self._saved_at = time.monotonic() - self._job.checkpoint.every + _RETRY_SECONDS
            log.warning("%s; trying again in %.0f s", error, _RETRY_SECONDS)

    def _write(self, state: Checkpoint) -> None:
        """Save, and only then let the store forget what the checkpoint contains."""
        begun = time.monotonic()
        checkpoint.save(self._setting.run_folder, state, keep=self._job.checkpoint.keep)
        self._ends.replay.acknowledge(state.positions[SHARD].after)
        self._metrics.add("checkpoints")
        self._metrics.set("checkpoint_seconds", time.monotonic() - begun)
        self._metrics.set("checkpoint_step", state.step)

    def _restore(self) -> Position:
        """Go on from the newest checkpoint, if there is one; where in the store to go on."""
        found = checkpoint.available(self._setting.run_folder)
        position = Position(generation=self._generation())
        if found:
            state = checkpoint.load(found[-1])
            self._check_origin(state, found[-1].name)
            for trainee in self._trainees.values():
                _restore(trainee, state, found[-1].name)
            self._steps = state.step
            self._seconds_before = state.counters["training_seconds"]
            self._consumed = int(state.counters["consumed"])
            # A store that came back empty, or another one, has nothing that was consumed.
            if state.positions[SHARD].generation == position.generation:
                position = state.positions[SHARD]
        self._restore_store(position)
        return position

    def _begin_anew(self) -> None:
        """The store lost its memory: what had been taken goes with it, new blocks will come."""
        self._restore_store(Position())
        self._intake.resume(Position(generation=self._generation()))

    def _restore_store(self, position: Position) -> None:
        capacity = self._job.store.capacity
        retained = min(_MAX_RETAINED_BYTES, self._job.store.memory_mb * 2**20 // 2)
        # Rows behind the position that are consumed already are counted when they come again.
        self._ends.replay.restore(
            samples=self._consumed - sum(position.rows.values()),
            versions={t.name: t.updates for t in self._trainees.values()},
            attempt=self._ends.attempt,
            position=position.after,
        )
        self._ends.replay.configure(Limits(capacity, self._job.store.max_staleness, retained))
        self._metrics.set("capacity_steps", capacity)

    def _generation(self) -> str:
        return self._ends.store.generation() or ""

    def _check_origin(self, state: Checkpoint, name: str) -> None:
        own = (self._job.game.name, self._job.algorithm["name"], set(self._trainees))
        if (state.game, state.algorithm, set(state.updates)) != own:
            raise CheckpointError(
                f"{name}: a checkpoint of {state.algorithm} on {state.game} for "
                f"{', '.join(state.updates)}, which this job does not train; move it away"
            )


def _trainees(
    job: Job, algorithm: algorithms.Algorithm, policies: Mapping[str, Spaces]
) -> dict[str, Trainee]:
    device = resolve_device(job.learner.device)
    hardware = Hardware(device, resolve_precision(job.learner.precision, device))
    return {
        name: Trainee(name, spaces, job.network, algorithm, hardware, job.seed)
        for name, spaces in policies.items()
    }


def _restore(trainee: Trainee, state: Checkpoint, name: str) -> None:
    try:
        trainee.restore(
            state.updates[trainee.name],
            state.weights[trainee.name],
            state.optimizers.get(trainee.name, {}),
            state.random.get(trainee.name),
        )
    except TroupeError as error:
        raise CheckpointError(f"{name}: {trainee.name}: {error}; was the job changed?") from None
