"""The learner: takes blocks, updates policies, publishes their weights, saves checkpoints."""

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import numpy as np
import torch

from troupe.checkpoint import CheckpointError, Position
from troupe.episodes import Columns
from troupe.errors import TroupeError
from troupe.jobs.roles import policies_of, title
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.jobs.stages import StageLostError, open_stages
from troupe.metrics import Metrics
from troupe.policies import Spaces
from troupe.store.replay import END
from troupe_learners import league, lockstep, meeting, prompting
from troupe_learners.algorithms import Algorithm
from troupe_learners.batches import Piece
from troupe_learners.company import Company
from troupe_learners.intake import Intake
from troupe_learners.limits import limits_of, retained_bytes, slots, turn_steps
from troupe_learners.publisher import Publisher
from troupe_learners.ranks import RankLostError, Ranks
from troupe_learners.ring import Ring
from troupe_learners.saving import Moment, Origin, Progress, Saver
from troupe_learners.trainee import Trainee
from troupe_learners.trainees import create_trainees, device_of
from troupe_learners.turns import Turns

log = logging.getLogger("troupe.learner")

_WAIT_SECONDS = 0.2
_PUBLISH_SECONDS = 0.2
"""Between versions that only an evaluation looks at."""
_FRUITLESS = 8
"""Lives in a row in which somebody was lost before anything had been learned."""


class Learner:
    """The worker of role `learner`; its slot is its rank."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting

    def run(self) -> None:
        """Train until the job's limits are reached or the run is told to stop; save; return.

        When a rank is lost, or a colocated actor, all of them begin again from the checkpoint.

        Raises:
            CheckpointError: the newest checkpoint is not sound or not this job's, or the last one
                could not be saved.
            TroupeError: the store or the weight server is gone for good, or training diverged.
        """
        fruitless: int | None = 0
        while fruitless is not None:
            fruitless = self._live(fruitless)

    def _live(self, fruitless: int) -> int | None:
        """One life of all ranks: none once it is over for good, else how many came to nothing."""
        before = after = 0
        with self._setting.open() as ends:
            torch.set_num_threads(ends.job.learner.threads)
            policies = policies_of(ends.job)
            try:
                ranks = meeting.meet(self._setting, ends, device_of(ends.job, self._setting.slot))
                if ranks is None:
                    return None
                with closing(ranks):
                    session = Session(self._setting, ends, policies, ranks)
                    before = after = session.updates
                    try:
                        session.run()
                    finally:
                        after = session.updates
            except (RankLostError, StageLostError) as error:
                fruitless = 0 if after > before else fruitless + 1
                if fruitless == _FRUITLESS:
                    raise
                log.warning("%s; beginning again from the checkpoint", error)
                return fruitless
        return None


class _Agreed(NamedTuple):
    """What all ranks do next."""

    over: bool
    """The run is done, or one of them was told to stop."""
    save: bool
    wanted: bool
    """One of their shards runs short of room: it would be well to save."""
    seconds: float
    """Of training."""
    saved: int
    """Steps trained on, of the newest checkpoint."""
    ready: tuple[str, ...]
    """The policies to be trained, in order."""


class Session:
    """One life of a rank of the learner, which usually is the only one.

    All ranks do the same in the same order. What each decides by itself, it decides from its own
    shard of the store, by the clock or by what it is told, so they agree before every turn.
    """

    def __init__(
        self,
        setting: WorkerSetting,
        ends: Connections,
        policies: Mapping[str, Spaces],
        ranks: Ranks | None = None,
    ) -> None:
        """Go on from the newest checkpoint, if there is one.

        Raises:
            CheckpointError, UserError, TroupeError: as `Learner.run`.
        """
        self._job = ends.job
        self._ends = ends
        self._ranks = ranks = ranks or Ranks()
        self._told = ends.metrics if ranks.first else Metrics()
        """What concerns all ranks, and is told by the first."""
        self._in_lockstep = ends.job.schedule == "lockstep"
        self._trainees = create_trainees(ends.job, policies, ranks)
        self._plan = next(iter(self._trainees.values())).algorithm.plan
        self._progress = Progress()
        self._saver = Saver(
            ends.job.checkpoint,
            Origin(
                setting.run,
                title(ends.job),
                str(ends.job.algorithm["name"]),
                setting.run_folder,
                ends.attempt,
            ),
            self._trainees,
            self._progress,
            self._told,
            ends.replay.acknowledge,
            ranks,
            memories=self._in_lockstep,
            # Prompts are given out again; what else waits in the store would be lost.
            settled=ends.job.text is None,
        )
        self._league = league.create(ends, tuple(policies)) if ranks.first else league.Nobody()
        self._prompts = prompting.create(ends, ranks)
        self._begin(self._saver.restore())
        self._agreed = _Agreed(False, False, False, self._progress.seconds, self._saver.saved, ())
        learners = {name: trainee.algorithm for name, trainee in self._trainees.items()}
        self._intake = self._company(learners) or Intake(
            ends.replay, self._feed, learners, ends.metrics
        )
        every = _PUBLISH_SECONDS if ends.job.actors.colocated else 0.0
        self._publisher = Publisher(
            ends.weights, ends.replay, self._told, ends.reporter.stop, every
        )

    @property
    def updates(self) -> int:
        """Made over all policies and lives."""
        return sum(trainee.updates for trainee in self._trainees.values())

    def run(self) -> None:
        """See `Learner.run`."""
        with ExitStack() as stack:
            stack.enter_context(self._saver)
            stack.enter_context(self._publisher)
            self._publish_first()
            stack.enter_context(self._intake)
            self._report_totals()
            while self._turn():
                pass
            self._saver.save(self._moment())
            self._publisher.finish()

    def _turn(self) -> bool:
        """Wait a little until there is enough to learn from, and do; save when it is time.

        Returns:
            Whether the run goes on.
        """
        self._intake.gather()
        if self._intake.emptied.is_set():
            self._begin_anew()
        self._agreed = agreed = self._agree()
        self._saver.hear(agreed.saved)
        if agreed.over:
            return False
        if agreed.save:
            self._saver.begin(self._moment())
        self._league.admit(self._publisher.settle)
        for policy in agreed.ready:
            self._train(self._trainees[policy])
        return True

    def _agree(self) -> _Agreed:
        before, first, trainees = time.monotonic(), self._ranks.first, self._trainees
        over = self._over()
        ready = () if over else self._feed.ready(_WAIT_SECONDS)
        ready = tuple(policy for policy in ready if not self._drop_stale(policy))
        wanted = self._intake.checkpoint_wanted.is_set()
        sums = self._ranks.sums(
            [
                float(over),
                float(first and self._saver.due(wanted=wanted or self._agreed.wanted)),
                float(wanted),
                self._progress.seconds if first else 0.0,
                float(self._saver.saved) if first else 0.0,
                *(float(policy in ready) for policy in trainees),
            ]
        )
        votes = zip(trainees, sums[-len(trainees) :], strict=True)
        chosen = [policy for policy, votes in votes if votes == self._ranks.size]
        if not self._in_lockstep:  # one at a time, so that none is left behind
            chosen = sorted(chosen, key=lambda policy: trainees[policy].updates)[:1]
        if self._progress.training:
            self._ends.metrics.add("blocked_seconds", time.monotonic() - before)
        elif chosen:
            self._progress.start()
        over, save, wanted = (votes > 0 for votes in sums[:3])
        return _Agreed(over, save, wanted, sums[3], int(sums[4]), tuple(chosen))

    def _drop_stale(self, policy: str) -> bool:
        """Discard blocks that became too old while they waited."""
        if self._plan.replay is not None:
            return False
        oldest = self._trainees[policy].updates - self._job.store.max_staleness
        dropped = self._feed.drop(policy, older_than=oldest)
        if dropped:
            steps = sum(piece.steps for piece in dropped)
            self._consume(steps)
            self._prompts.consumed(dropped)
            self._ends.metrics.add("stale_steps", steps)
        return bool(dropped)

    def _train(self, trainee: Trainee) -> None:
        pieces = self._feed.take(trainee.name)
        steps = sum(piece.steps for piece in pieces if piece.fresh)
        if not self._in_lockstep:  # so that actors fill the queue while the update runs
            self._consume(steps)
        self._report_age(trainee, pieces)
        if self._job.opponents is not None:
            self._league.hear(trainee.name, league.results(pieces, self._ranks))
        scalars = trainee.train(pieces, self._done())
        self._progress.steps += self._ranks.total(steps)
        self._report(trainee, scalars)
        self._publish(trainee)
        self._prompts.consumed(pieces)
        if self._in_lockstep:  # where actors wait for the weights first of all
            self._consume(steps)

    def _publish(self, trainee: Trainee) -> None:
        """The first rank does; the others let their actors' blocks grow old by it."""
        if not self._ranks.first:
            trainee.lend_weights()
            self._ends.replay.published(trainee.name, trainee.updates)
            return
        weights = trainee.published()
        self._past[trainee.name].append((trainee.updates, weights))
        self._league.announce(trainee.name, trainee.updates)
        self._publisher.publish(trainee.name, trainee.updates, weights)

    def _consume(self, steps: int) -> None:
        self._progress.consumed += steps
        if not self._job.actors.colocated:
            self._ends.replay.sampled(steps)

    def _done(self) -> float:
        """How much of the run is done, 0 to 1; in lockstep minutes have no say in what is learned."""
        seconds = 0.0 if self._in_lockstep else self._agreed.seconds
        return self._progress.share(self._job.stop, self.updates, seconds)

    def _over(self) -> bool:
        minutes = self._job.stop.minutes
        return (
            self._ends.reporter.stop.is_set()
            or self._done() >= 1.0
            or self._prompts.exhausted(self.updates)
            or (minutes is not None and self._progress.seconds >= 60 * minutes)
        )

    # Telling.

    def _report_age(self, trainee: Trainee, pieces: Sequence[Piece]) -> None:
        """How many turns ago the weights were made that played this."""
        versions = [piece.cut(piece.block.version) for piece in pieces if piece.steps]
        if versions:
            # After a learner's death blocks may come from versions that are yet to be trained again.
            age = np.maximum(trainee.updates - np.concatenate(versions).astype(np.int64), 0)
            self._told.set("staleness", float(age.mean()))
            self._told.set("staleness_max", int(age.max()))

    def _report(self, trainee: Trainee, scalars: Mapping[str, float]) -> None:
        """Look at an update's scalars before anyone gets its weights."""
        fatal = ("loss",) if trainee.skips_overflow else ("loss", "grad_norm")
        for name, value in scalars.items():
            if np.isfinite(value):
                self._told.set(f"{name}/{trainee.name}", value)
            elif name.endswith(fatal):
                raise TroupeError(
                    f"learner: the {name} of {trainee.name} is {value} at update "
                    f"{trainee.updates}; lower algorithm.optimizer.lr, and resume"
                )
        self._report_totals()

    def _report_totals(self) -> None:
        self._told.set("steps_trained", self._progress.steps)
        self._told.set("training_seconds", self._progress.seconds)
        self._told.set("updates", self.updates)
        for trainee in self._trainees.values():
            self._told.set(f"updates/{trainee.name}", trainee.updates)

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
        self._restore_store(position, forget=saved is not None and saved.dealt_anew)
        self._prompts.restore(saved.documents if saved else {})
        self._feed = self._make_feed(position)

    def _make_feed(self, position: Position) -> Ring | Turns:
        if not self._in_lockstep:
            return Ring(
                self._trainees,
                turn_steps(self._job, self._plan, self._ranks.rank),
                position,
                whole=self._plan.whole,
                grouped=self._job.text is not None,
                retained_bytes=retained_bytes(self._job) // 2 if self._plan.replay else 0,
            )
        count, turn = self._job.actors.count, self.updates // len(self._trainees)
        if turn and len(self._resume) != count:
            raise CheckpointError(
                f"actors.count: {count}, the run was saved with {len(self._resume)}; in lockstep it "
                "can only go on with as many"
            )
        return Turns(self._trainees, slots(self._job, self._ranks.rank), turn, position)

    def _company(self, learners: Mapping[str, Algorithm]) -> Company | None:
        """The actors, where the job wants them at the learner's side."""
        if not self._job.actors.colocated:
            return None
        assert isinstance(self._feed, Turns)
        return Company(
            open_stages(self._ends, slots(self._job, self._ranks.rank)),
            self._feed,
            learners,
            lambda policy, version: dict(self._past[policy])[version],
            turn=self.updates // len(self._trainees),
            lag=self._job.lag,
            resume=self._resume,
        )

    def _publish_first(self) -> None:
        """The weights that the first turn is played with; in lockstep, then the word to go."""
        if not self._ranks.first:
            for trainee in self._trainees.values():
                trainee.lend_weights()
            return
        for trainee in self._trainees.values():
            for version, weights in list(self._past[trainee.name]):
                self._publisher.publish(trainee.name, version, weights)
            self._publish(trainee)
        if isinstance(self._feed, Turns) and not lockstep.begun(
            self._ends.board, self._ends.attempt
        ):
            self._publisher.settle()
            turn, count = self.updates // len(self._trainees), self._job.actors.count
            lockstep.begin(self._ends.board, self._ends.attempt, turn, self._resume, count)

    def _moment(self) -> Moment:
        documents = {**self._league.dump(), **self._prompts.dump()}
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
        self._prompts.restore(self._prompts.now())
        self._intake.resume(self._position(None))

    def _restore_store(self, position: Position, *, forget: bool = False) -> None:
        limits = limits_of(self._job, self._plan, self._ranks.rank)
        # Rows behind the position that are consumed already are counted when they come again.
        self._ends.replay.restore(
            samples=self._progress.consumed - sum(position.rows.values()),
            versions={trainee.name: trainee.updates for trainee in self._trainees.values()},
            attempt=self._ends.attempt,
            position=END if forget else position.after,
        )
        self._ends.replay.configure(limits)
        self._ends.metrics.set("capacity_steps", limits.capacity_steps)
