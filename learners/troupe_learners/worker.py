"""The learner: takes blocks, updates policies, publishes their weights, saves checkpoints."""

import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
import torch

from troupe.checkpoint import CheckpointError, Position
from troupe.episodes import Columns
from troupe.errors import TroupeError
from troupe.jobs.roles import policies_of, title
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.jobs.spec import Job
from troupe.policies import Spaces
from troupe.policies.devices import resolve_device, resolve_precision
from troupe_learners import algorithms, league, lockstep
from troupe_learners.batches import Piece
from troupe_learners.intake import Intake
from troupe_learners.limits import limits_of, retained_bytes, turn_steps
from troupe_learners.publisher import Publisher
from troupe_learners.ring import Ring
from troupe_learners.saving import Moment, Origin, Progress, Saver
from troupe_learners.trainee import Hardware, Trainee
from troupe_learners.turns import Turns

_WAIT_SECONDS = 0.2


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
        self._in_lockstep = ends.job.schedule == "lockstep"
        self._trainees = _trainees(ends.job, policies)
        self._plan = next(iter(self._trainees.values())).algorithm.plan
        self._progress = Progress()
        self._saver = Saver(
            ends.job.checkpoint,
            Origin(
                setting.run, title(ends.job), str(ends.job.algorithm["name"]), setting.run_folder
            ),
            self._trainees,
            self._progress,
            ends.metrics,
            ends.replay.acknowledge,
            memories=self._in_lockstep,
        )
        self._league = league.create(ends, tuple(policies))
        self._begin(self._saver.restore())
        learners = {name: trainee.algorithm for name, trainee in self._trainees.items()}
        self._intake = Intake(ends.replay, self._feed, learners, ends.metrics)
        self._publisher = Publisher(ends.weights, ends.replay, ends.metrics, ends.reporter.stop)

    def run(self) -> None:
        """See `Learner.run`."""
        with ExitStack() as stack:
            stack.enter_context(self._saver)
            stack.enter_context(self._publisher)
            self._publish_first()
            stack.enter_context(self._intake)
            self._report_totals()
            while not self._over():
                self._turn()
            self._saver.save(self._moment())
            self._publisher.finish()

    def _turn(self) -> None:
        """Wait a little until there is enough to learn from, and do; save when it is time."""
        self._intake.check()
        if self._intake.emptied.is_set():
            self._begin_anew()
        self._league.admit(self._publisher.settle)
        for policy in self._wait():
            if not self._drop_stale(policy):
                self._train(self._trainees[policy])
        wanted = self._intake.checkpoint_wanted.is_set()
        self._saver.save_if_due(self._moment, wanted=wanted)

    def _wait(self) -> tuple[str, ...]:
        """The policies whose turn it is."""
        before = time.monotonic()
        ready = self._feed.ready(_WAIT_SECONDS)
        if self._progress.training:
            self._metrics.add("blocked_seconds", time.monotonic() - before)
        elif ready:
            self._progress.start()
        return ready

    def _drop_stale(self, policy: str) -> bool:
        """Discard blocks that became too old while they waited."""
        if self._plan.replay is not None:
            return False
        oldest = self._trainees[policy].updates - self._job.store.max_staleness
        dropped = self._feed.drop(policy, older_than=oldest)
        if dropped:
            self._consume(dropped)
            self._metrics.add("stale_steps", dropped)
        return dropped > 0

    def _train(self, trainee: Trainee) -> None:
        pieces = self._feed.take(trainee.name)
        steps = sum(piece.steps for piece in pieces if piece.fresh)
        if not self._in_lockstep:  # so that actors fill the queue while the update runs
            self._consume(steps)
        self._report_age(trainee, pieces)
        self._league.hear(trainee.name, pieces)
        scalars = trainee.train(pieces, self._done())
        self._progress.steps += steps
        self._report(trainee, scalars)
        self._publish(trainee)
        if self._in_lockstep:  # where actors wait for the weights first of all
            self._consume(steps)

    def _publish(self, trainee: Trainee) -> None:
        weights = trainee.weights()
        self._past[trainee.name].append((trainee.updates, weights))
        self._league.announce(trainee.name, trainee.updates)
        self._publisher.publish(trainee.name, trainee.updates, weights)

    def _consume(self, steps: int) -> None:
        self._progress.consumed += steps
        self._ends.replay.sampled(steps)

    def _updates(self) -> int:
        return sum(trainee.updates for trainee in self._trainees.values())

    def _done(self) -> float:
        """How much of the run is done, 0 to 1; in lockstep minutes have no say in what is learned."""
        timed = not self._in_lockstep
        return self._progress.share(self._job.stop, self._updates(), timed=timed)

    def _over(self) -> bool:
        minutes = self._job.stop.minutes
        return (
            self._ends.reporter.stop.is_set()
            or self._done() >= 1.0
            or (minutes is not None and self._progress.seconds >= 60 * minutes)
        )

    # Telling.

    def _report_age(self, trainee: Trainee, pieces: list[Piece]) -> None:
        """How many turns ago the weights were made that played this."""
        versions = [piece.cut(piece.block.version) for piece in pieces if piece.steps]
        if versions:
            # After a learner's death blocks may come from versions that are yet to be trained again.
            age = np.maximum(trainee.updates - np.concatenate(versions).astype(np.int64), 0)
            self._metrics.set("staleness", float(age.mean()))
            self._metrics.set("staleness_max", int(age.max()))

    def _report(self, trainee: Trainee, scalars: Mapping[str, float]) -> None:
        """Look at an update's scalars before anyone gets its weights."""
        fatal = ("loss",) if trainee.skips_overflow else ("loss", "grad_norm")
        for name, value in scalars.items():
            if np.isfinite(value):
                self._metrics.set(f"{name}/{trainee.name}", value)
            elif name.endswith(fatal):
                raise TroupeError(
                    f"learner: the {name} of {trainee.name} is {value} at update "
                    f"{trainee.updates}; lower algorithm.optimizer.lr, and resume"
                )
        self._report_totals()

    def _report_totals(self) -> None:
        self._metrics.set("steps_trained", self._progress.steps)
        self._metrics.set("training_seconds", self._progress.seconds)
        self._metrics.set("updates", self._updates())
        for trainee in self._trainees.values():
            self._metrics.set(f"updates/{trainee.name}", trainee.updates)

    # Beginning, and going on.

    def _begin(self, saved: Moment | None) -> None:
        """Stand where the checkpoint was taken: in the store, and in what waits here."""
        self._past: dict[str, deque[tuple[int, Columns]]] = {
            name: deque(saved.past.get(name, {}).items() if saved else (), self._job.lag + 1)
            for name in self._trainees
        }
        self._resume = saved.resume if saved else {}
        self._league.restore(saved.documents if saved else {})
        position = self._position(saved.position if saved else None)
        self._restore_store(position)
        self._feed = self._make_feed(position)

    def _make_feed(self, position: Position) -> Ring | Turns:
        if not self._in_lockstep:
            return Ring(
                self._trainees,
                turn_steps(self._job, self._plan),
                position,
                whole=self._plan.whole,
                retained_bytes=retained_bytes(self._job) // 2 if self._plan.replay else 0,
            )
        count, turn = self._job.actors.count, self._updates() // len(self._trainees)
        if turn and len(self._resume) != count:
            raise CheckpointError(
                f"actors.count: {count}, the run was saved with {len(self._resume)}; in lockstep it "
                "can only go on with as many"
            )
        return Turns(self._trainees, count, turn, position)

    def _publish_first(self) -> None:
        """The weights that the first turn is played with; in lockstep, then the word to go."""
        for trainee in self._trainees.values():
            for version, weights in list(self._past[trainee.name]):
                self._publisher.publish(trainee.name, version, weights)
            self._publish(trainee)
        if isinstance(self._feed, Turns) and not lockstep.begun(
            self._ends.board, self._ends.attempt
        ):
            self._publisher.settle()
            turn, count = self._updates() // len(self._trainees), self._job.actors.count
            lockstep.begin(self._ends.board, self._ends.attempt, turn, self._resume, count)

    def _moment(self) -> Moment:
        documents = self._league.dump()
        if isinstance(self._feed, Turns):
            past = {name: dict(list(kept)[:-1]) for name, kept in self._past.items()}
            resume = self._feed.resume or self._resume
            return Moment(self._feed.position(), resume, past, documents)
        memories = [trainee.memory for trainee in self._trainees.values()]
        needed = {memory.oldest for memory in memories if memory is not None and memory.oldest}
        return Moment(self._feed.position(needed), documents=documents)

    def _position(self, saved: Position | None) -> Position:
        """Where to go on: a store that came back empty has nothing that was ever consumed."""
        generation = self._ends.store.generation() or ""
        known = saved is not None and saved.generation == generation
        return saved if saved is not None and known else Position(generation=generation)

    def _begin_anew(self) -> None:
        """The store lost its memory: what waited here goes with it, new blocks will come."""
        if self._in_lockstep:
            raise TroupeError(
                "the store was restarted and lost its memory, and with it what actors had played: "
                "a run in lockstep cannot go on; resume it from its checkpoint"
            )
        self._restore_store(Position())
        self._intake.resume(self._position(None))

    def _restore_store(self, position: Position) -> None:
        limits = limits_of(self._job, self._plan)
        # Rows behind the position that are consumed already are counted when they come again.
        self._ends.replay.restore(
            samples=self._progress.consumed - sum(position.rows.values()),
            versions={trainee.name: trainee.updates for trainee in self._trainees.values()},
            attempt=self._ends.attempt,
            position=position.after,
        )
        self._ends.replay.configure(limits)
        self._metrics.set("capacity_steps", limits.capacity_steps)


def _trainees(job: Job, policies: Mapping[str, Spaces]) -> dict[str, Trainee]:
    device = resolve_device(job.learner.device)
    hardware = Hardware(device, resolve_precision(job.learner.precision, device))
    return {
        name: Trainee(name, spaces, job.network, algorithms.load(job.algorithm), hardware, job.seed)
        for name, spaces in policies.items()
    }
