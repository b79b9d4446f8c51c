"""When the learner saves, what it saves, and how it goes on from that."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from troupe import checkpoint
from troupe.checkpoint import Checkpoint, CheckpointError, Position
from troupe.episodes import Columns
from troupe.errors import FatalError, TroupeError
from troupe.jobs.spec import CheckpointSettings, StopSettings
from troupe.metrics import Metrics
from troupe.runs import RunFolder
from troupe_learners.background import Background
from troupe_learners.parts import Part
from troupe_learners.ranks import RankLostError, Ranks
from troupe_learners.trainee import Trainee

log = logging.getLogger("troupe.learner")

_FIRST = "0"
"""The first rank's shard of the store."""
_RETRY_SECONDS = 10.0
_AT_MOST_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose checkpoints these are."""

    run: str
    game: str
    """Or the environment."""
    algorithm: str
    folder: Path
    """The run's."""
    attempt: int
    """Which start or resume saves; a later one is not disturbed."""


class Progress:
    """How far a run has come, over all lives of its learner."""

    def __init__(self) -> None:
        self.steps = 0
        """Trained on."""
        self.consumed = 0
        """Steps trained on or dropped."""
        self._seconds_before = 0.0
        self._started: float | None = None

    @property
    def training(self) -> bool:
        """Whether this life has had something to train on."""
        return self._started is not None

    def start(self) -> None:
        """The first batch of this life is there."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training, from the first batch of each life."""
        now = time.monotonic()
        return self._seconds_before + (0.0 if self._started is None else now - self._started)

    def share(self, stop: StopSettings, updates: int, seconds: float) -> float:
        """How much of the run is done, 0 to 1, by the limit that is nearest; 0 where it has none.

        Args:
            stop: the limits.
            updates: made so far, over all policies.
            seconds: of training; 0 where minutes do not count, as they are others in every run.
        """
        shares = [self.steps / stop.steps] if stop.steps else []
        shares += [updates / stop.updates] if stop.updates else []
        shares += [seconds / (60 * stop.minutes)] if stop.minutes else []
        return min(1.0, max(shares, default=0.0))

    def counters(self) -> dict[str, float]:
        """What a checkpoint keeps, besides the steps."""
        return {"training_seconds": self.seconds, "consumed": self.consumed}

    def restore(self, steps: int, counters: Mapping[str, float]) -> None:
        """Go on from what a checkpoint kept."""
        self.steps = steps
        self.consumed = int(counters.get("consumed", steps))
        self._seconds_before = counters.get("training_seconds", 0.0)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a checkpoint holds besides trainees and progress: how things stand between two turns."""

    position: Position
    """In this rank's stream of blocks."""
    resume: Mapping[int, bytes] = field(default_factory=dict)
    """In lockstep, by actor: what it needs to play the next turn. All are restored, and those of
    this rank saved."""
    past: Mapping[str, Mapping[int, Columns]] = field(default_factory=dict)
    """In lockstep, by policy and version: weights that are still to be played with."""
    documents: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """What else is to be saved, by name, as JSON can hold it."""
    dealt_anew: bool = False
    """There were more ranks or fewer: what waits in the streams belongs into others."""


class Saver:
    """Copies the state between two turns, writes it beside the training, then tells the store.

    The first rank writes the parts of all, and decides when; all are called at the same time.

    Args:
        settings: when, and how much is kept.
        origin: whose checkpoints these are.
        trainees: what is saved, by policy.
        progress: what is saved, too.
        metrics: told of every save.
        acknowledge: told the id up to which this rank's shard may forget.
        ranks: all of them.
        memories: whether replay memories are saved; else the store fills them again.
        settled: whether a run can go on only with as many ranks as it was saved with.
    """

    def __init__(
        self,
        settings: CheckpointSettings,
        origin: Origin,
        trainees: Mapping[str, Trainee],
        progress: Progress,
        metrics: Metrics,
        acknowledge: Callable[[str], object],
        ranks: Ranks,
        *,
        memories: bool,
        settled: bool,
    ) -> None:
        self._settings = settings
        self._origin = origin
        self._trainees = trainees
        self._progress = progress
        self._metrics = metrics
        self._acknowledge = acknowledge
        self._ranks = ranks
        self._memories = memories
        self._settled = settled
        self.saved = -1
        """Steps trained on, of the newest checkpoint that the first rank is known to have written."""
        self._brought: tuple[int, str] | None = None
        """For a checkpoint that may not be written yet: its steps, and what may be forgotten then."""
        self._background = Background("saver")
        self._next = time.monotonic() + settings.every

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, RankLostError):
            self._background.finish()  # what is written now is what all of them go on from
        self._background.__exit__(kind, error, trace)

    def restore(self) -> Moment | None:
        """Give trainees and progress what the newest checkpoint holds; the moment it was taken in.

        Raises:
            CheckpointError: it is not sound, or another job's.
        """
        found = checkpoint.available(self._origin.folder)
        if not found:
            return None
        state = checkpoint.load(found[-1])
        origin = self._origin
        checkpoint.check_fits(found[-1], state, origin.game, origin.algorithm, self._trainees)
        before = len(state.ranks) + 1
        if before != self._ranks.size and self._settled:
            raise CheckpointError(
                f"learner.count: {self._ranks.size}, the run was saved with {before}; it can only "
                "go on with as many"
            )
        fresh = Part.of(self._trainees, Position(), 0, {}, memories=False)
        for name, trainee in self._trainees.items():
            try:
                trainee.restore(
                    state.updates[name],
                    state.weights[name],
                    state.states.get(name, {}),
                    state.random.get(name),
                    state.settings.get(name, {}),
                )
                memory = trainee.memory if self._memories and self._ranks.first else None
                if memory is not None and name in state.replays:
                    memory.restore(state.replays[name])
            except TroupeError as error:
                raise CheckpointError(
                    f"{found[-1]}: {name}: {error}; was the job changed?"
                ) from None
        self._progress.restore(state.step, state.counters)
        self.saved = state.step
        if self._ranks.rank in state.ranks:
            self._restore_own(found[-1], state.ranks[self._ranks.rank])
        elif not self._ranks.first:
            replace(fresh, settings=state.settings).restore(self._trainees)
            self._progress.consumed = 0
        anew = before != self._ranks.size
        position = state.positions.get(str(self._ranks.rank), Position())
        return Moment(
            Position() if anew else position,
            dealt_anew=anew,
            resume=state.resume,
            past=state.past,
            documents=state.documents,
        )

    def _restore_own(self, path: Path, columns: Columns) -> None:
        try:
            part = Part.from_columns(columns)
            part.restore(self._trainees)
        except (KeyError, ValueError, TroupeError) as error:
            raise CheckpointError(
                f"{path}: rank {self._ranks.rank}: {error}; was the job changed?"
            ) from None
        self._progress.consumed = part.consumed

    def due(self, *, wanted: bool) -> bool:
        """Whether it is time to save, or it is `wanted`, and the last save is done."""
        now = time.monotonic()
        early = wanted and now > self._next - self._settings.every + _AT_MOST_EVERY
        if not (now > self._next or early) or not self._background.finish(timeout=0):
            return False
        self._next = now + self._settings.every
        return self._progress.steps > self.saved

    def begin(self, moment: Moment) -> None:
        """Save beside the training."""
        state = self._snapshot(moment)
        if state is not None:
            self._background.run(partial(self._try_to_write, state))

    def hear(self, saved: int) -> None:
        """Another rank than the first learns what that one has written."""
        if self._ranks.first:
            return
        self.saved = saved
        if self._brought is not None and self._brought[0] <= saved:
            self._acknowledge(self._brought[1])
            self._brought = None

    def save(self, moment: Moment) -> None:
        """Save now, unless nothing was learned since the last time; all ranks return when it is done.

        Raises:
            CheckpointError: it cannot be written; earlier checkpoints are unharmed.
        """
        self._background.finish()
        needed = self._ranks.first and self._progress.steps > self.saved
        if self._ranks.total(int(needed)):
            state = self._snapshot(moment)
            if state is not None:
                self._write(state)
        self._ranks.total(0)

    def _snapshot(self, moment: Moment) -> Checkpoint | None:
        """The whole state, on the first rank; the others bring it theirs."""
        if self._ranks.first:
            others = [Part.from_bytes(data) for data in self._ranks.gather(b"")[1:]]
            return self._whole(moment, dict(enumerate(others, 1)))
        consumed = self._progress.consumed
        part = Part.of(
            self._trainees, moment.position, consumed, moment.resume, memories=self._memories
        )
        self._ranks.gather(part.to_bytes())
        for trainee in self._trainees.values():
            trainee.lend_weights()
        for trainee in self._trainees.values():
            trainee.lend_state()
        self._brought = (self._progress.steps, moment.position.after)
        return None

    def _whole(self, moment: Moment, others: Mapping[int, Part]) -> Checkpoint:
        trainees = self._trainees.items()
        memories = [(n, t.memory) for n, t in trainees if t.memory is not None and self._memories]
        resume = {**moment.resume}
        for part in others.values():
            resume |= part.resume
        positions = {str(rank): part.position for rank, part in others.items()}
        return Checkpoint(
            run=self._origin.run,
            game=self._origin.game,
            algorithm=self._origin.algorithm,
            step=self._progress.steps,
            updates={name: trainee.updates for name, trainee in trainees},
            weights={name: trainee.weights() for name, trainee in trainees},
            states={name: trainee.state() for name, trainee in trainees},
            past=moment.past,
            replays={name: memory.state() for name, memory in memories},
            resume=resume,
            ranks={rank: replace(part, resume={}).columns() for rank, part in others.items()},
            settings={name: trainee.settings_state() for name, trainee in trainees},
            documents=moment.documents,
            counters=self._progress.counters(),
            positions={_FIRST: moment.position, **positions},
            random={name: trainee.random_state() for name, trainee in trainees},
        )

    def _try_to_write(self, state: Checkpoint) -> None:
        """In mid-run a full disk does not end the training: the next save may go well."""
        try:
            self._write(state)
        except CheckpointError as error:
            self._metrics.add("checkpoint_failures")
            self._next = time.monotonic() + min(_RETRY_SECONDS, self._settings.every)
            log.warning("%s; trying again", error)

    def _write(self, state: Checkpoint) -> None:
        origin, begun = self._origin, time.monotonic()
        now = RunFolder(origin.folder).attempts
        if now > origin.attempt:
            raise FatalError(
                f"learner: attempt {now} at the run has begun, {origin.attempt} saves nothing any more"
            )
        checkpoint.save(origin.folder, state, keep=self._settings.keep)
        self.saved = state.step
        # Only now: what is acknowledged is gone from the store.
        self._acknowledge(state.positions[_FIRST].after)
        self._metrics.add("checkpoints")
        self._metrics.set("checkpoint_seconds", time.monotonic() - begun)
        self._metrics.set("checkpoint_step", state.step)
