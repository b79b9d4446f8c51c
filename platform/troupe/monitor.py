"""From the snapshots of all processes to one frame."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from types import TracebackType
from typing import Protocol

from redis.exceptions import RedisError

from troupe import completions
from troupe.blocks import counted
from troupe.errors import TroupeError
from troupe.frame import Completions, Evaluation, Frame, Learned, Returns, Waits
from troupe.jobs.spec import Job, StopSettings
from troupe.journal import Journal
from troupe.prompts.watch import PromptWatch
from troupe.runs import RunFolder
from troupe.track import Track

EVERY = 5.0
"""Seconds between two lines of metrics.jsonl."""
SETTLED = 5.0
"""Seconds of training from which on its speed foretells its end."""


class Snapshots(Protocol):
    """Where the processes of a run tell about themselves."""

    def snapshots(self) -> Mapping[str, Mapping[str, object]]:
        """The newest snapshot of every process."""
        ...


class Monitor:
    """Watches one attempt of a run and keeps its journal. A context manager for one thread."""

    def __init__(
        self,
        board: Snapshots,
        folder: RunFolder,
        job: Job,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._board = board
        # A store that outlives a launcher still shows what the attempt before put up.
        self._left_behind = dict(board.snapshots())
        self._limits = job.stop
        self._solo = job.environment is not None
        self._writes = job.game is None and job.environment is None
        self._made = "tokens" if self._writes else "decisions"
        """What actors count of what they do."""
        self._prompts = PromptWatch(folder)
        self._bounded = job.schedule != "lockstep"
        self._run, self._attempt = folder.name, folder.attempts
        self._clock, self._wall = clock, wall
        self._start = clock()
        self._journal = Journal(folder, wall())
        self._due = math.inf
        self._tracks: defaultdict[str, Track] = defaultdict(Track)
        self._frame: Frame | None = None
        self._reachable = True
        self._unwritten = False
        """Whether the newest line could not be written."""
        self._waiting_for = ""

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._frame is not None and self._frame.training:
                self._write(self._frame)
        finally:
            self._journal.close()

    def poll(self) -> Frame:
        """Look at all processes; every few seconds, write down what was seen.

        A store that does not answer is an event, and the frame tells what was known before. So is
        a journal that cannot be written: what is being learned matters more.
        """
        events = [*self._look()]
        frame = self._compose()
        if self._frame is not None:
            events += news(self._frame, frame)
        if frame.training:
            events += self._keep(frame)
        self._frame = replace(frame, events=tuple(events))
        return self._frame

    def _keep(self, frame: Frame) -> list[str]:
        """Write every few seconds, for the first time once rates are known; what went wrong."""
        now = self._clock()
        wrong = self._write(frame) if now >= self._due else []
        if now >= self._due or self._due == math.inf:
            self._due = now + EVERY
        return wrong

    def _write(self, frame: Frame) -> list[str]:
        try:
            self._journal.write(frame)
        except TroupeError as error:
            wrong = [] if self._unwritten else [str(error)]
            self._unwritten = True
            return wrong
        self._unwritten = False
        return []

    def _look(self) -> Iterator[str]:
        try:
            snapshots = self._board.snapshots()
        except (TroupeError, RedisError, OSError) as error:
            if self._reachable:
                yield f"the store does not answer: {error}"
            self._reachable = False
            return
        if not self._reachable:
            yield "the store answers again"
        self._reachable = True
        for process, snapshot in sorted(snapshots.items()):
            if snapshot == self._left_behind.get(process):
                continue
            track = self._tracks[process]
            restarts = track.restarts
            track.observe(snapshot, self._clock())
            if track.restarts > restarts:
                yield f"{process} was started again"
            self._waiting_for = track.waiting_for or self._waiting_for

    def _compose(self) -> Frame:
        now = self._clock()
        alive = {name: track for name, track in self._tracks.items() if track.alive(now)}
        actors, learners = by_role(alive, "actor"), by_role(alive, "learner")
        reported, counters = report(self._tracks)
        progress, seconds_left = outlook(self._limits, reported)
        before = self._journal.last.get("decisions", 0.0)
        return Frame(
            time=self._wall(),
            elapsed=now - self._start,
            attempt=self._attempt,
            workers=len(alive),
            step=int(reported.get("learner/steps_trained", 0)),
            updates=int(reported.get("learner/updates", 0)),
            decisions=before + reported.get(f"actor/{self._made}", 0.0),
            decisions_per_second=sum(track.rate(self._made) for track in actors),
            steps_per_second=sum(track.rate("steps_trained") for track in learners),
            updates_per_second=sum(track.rate("updates") for track in learners),
            waits=Waits(blocked(actors), blocked(learners)),
            waiting_for=self._waiting_for,
            backlog=int(reported.get("learner/backlog_steps", 0)),
            capacity=int(reported.get("learner/capacity_steps", 0)) if self._bounded else 0,
            staleness=reported.get("learner/staleness"),
            staleness_max=reported.get("learner/staleness_max"),
            # In turns every actor has the same weights; that some said so earlier tells nothing.
            learned=tuple(learned(reported, actors if self._bounded else [])),
            evaluations=tuple(evaluations(reported)),
            nash_conv=reported.get("evaluator/eval/nash_conv"),
            returns=returns(reported) if self._solo else None,
            evaluated=int(reported.get("evaluator/eval/step", 0)),
            progress=progress,
            seconds_left=seconds_left,
            memory_mb=sum(track.gauges.get("rss_mb", 0.0) for track in alive.values()),
            restarts=sum(track.restarts for track in self._tracks.values()),
            events=(),
            reported=reported,
            completions=self._completions(reported, actors) if self._writes else None,
            counters=counters,
            run=self._run,
        )

    def _completions(self, reported: Mapping[str, float], actors: Sequence[Track]) -> Completions:
        rate = sum(track.rate("completions") for track in actors)
        return completions.told(reported, rate, self._prompts.look())


def by_role(tracks: Mapping[str, Track], role: str) -> list[Track]:
    """The tracks of one role; a process is called `role-slot`."""
    return [track for name, track in tracks.items() if name.rpartition("-")[0] == role]


def report(tracks: Mapping[str, Track]) -> tuple[dict[str, float], frozenset[str]]:
    """`role/name` of everything told, and which of that are counters.

    Counters are summed over a role's processes, gauges averaged.
    """
    summed: defaultdict[str, float] = defaultdict(float)
    averaged: dict[str, float] = {}
    for role in sorted({name.rpartition("-")[0] for name in tracks}):
        gauges: defaultdict[str, list[float]] = defaultdict(list)
        for track in by_role(tracks, role):
            for name, value in track.totals().items():
                summed[f"{role}/{name}"] += value
            for name, value in track.gauges.items():
                gauges[name].append(value)
        averaged |= {f"{role}/{name}": fmean(values) for name, values in sorted(gauges.items())}
    return {**summed, **averaged}, frozenset(summed)


def blocked(tracks: Iterable[Track]) -> float:
    """The share of their time that processes of one role spend waiting for the other side."""
    shares = [min(track.rate("blocked_seconds"), 1.0) for track in tracks]
    return fmean(shares) if shares else 0.0


def learned(reported: Mapping[str, float], actors: Sequence[Track]) -> Iterator[Learned]:
    """How each policy learns."""
    start = "learner/updates/"
    for policy in [name.removeprefix(start) for name in reported if name.startswith(start)]:
        updates = int(reported[start + policy])
        version = f"version/{policy}"
        versions = [actor.gauges[version] for actor in actors if version in actor.gauges]
        yield Learned(
            policy=policy,
            updates=updates,
            loss=reported.get(f"learner/loss/{policy}"),
            grad_norm=reported.get(f"learner/grad_norm/{policy}"),
            value=reported.get(f"learner/value/{policy}"),
            lag=max(0, updates - int(min(versions))) if versions else None,
            scalars=told_of(policy, reported),
        )


def told_of(policy: str, reported: Mapping[str, float]) -> dict[str, float]:
    """What the learner tells of a policy by name, besides counts."""
    start, end = "learner/", f"/{policy}"
    return {
        name.removeprefix(start).removesuffix(end): value
        for name, value in reported.items()
        if name.startswith(start) and name.endswith(end) and name != f"{start}updates{end}"
    }


def returns(reported: Mapping[str, float]) -> Returns:
    """What the episodes of the one policy brought."""

    def mean(start: str) -> float | None:
        return next((value for name, value in reported.items() if name.startswith(start)), None)

    return Returns(
        playing=mean("actor/return/"),
        playing_length=mean("actor/length/"),
        judged=reported.get("evaluator/eval/return"),
        judged_low=reported.get("evaluator/eval/return_low"),
        judged_high=reported.get("evaluator/eval/return_high"),
        judged_length=reported.get("evaluator/eval/length"),
    )


def evaluations(reported: Mapping[str, float]) -> Iterator[Evaluation]:
    """The newest evaluation against each opponent, in the order of their names."""
    start, end = "evaluator/eval/", "/wp"
    for name, wp in reported.items():
        if name.startswith(start) and name.endswith(end):
            about = name.removesuffix(end)
            yield Evaluation(
                opponent=about.removeprefix(start),
                wp=wp,
                wp_low=reported.get(f"{about}/wp_low", wp),
                wp_high=reported.get(f"{about}/wp_high", wp),
                adp=reported.get(f"{about}/adp"),
            )


def outlook(
    limits: StopSettings, reported: Mapping[str, float]
) -> tuple[float | None, float | None]:
    """Progress, 0 to 1, to the limit that comes first, and the seconds left until there.

    Reckoned from the mean speed of all training so far, which stays calm.
    """
    seconds = reported.get("learner/training_seconds", 0.0)
    minutes = None if limits.minutes is None else limits.minutes * 60
    ways = [
        (reported.get("learner/steps_trained", 0.0), limits.steps),
        (reported.get("learner/updates", 0.0), limits.updates),
        (seconds, minutes),
    ]
    done = [min(have / limit, 1.0) for have, limit in ways if limit is not None]
    if not done:
        return None, None
    progress = max(done)
    if progress == 0 or seconds < SETTLED:
        return progress, None
    return progress, seconds * (1 - progress) / progress


def news(before: Frame, after: Frame) -> Iterator[str]:
    """What a person should hear of where one frame follows another."""
    if after.training and not before.training:
        yield f"training goes on at step {after.step:,}" if after.attempt > 1 else "training begins"
    saved, failed = "learner/checkpoint_step", "learner/checkpoint_failures"
    if _grown(saved, before, after) and before.training:
        yield f"checkpoint at step {after.reported[saved]:,.0f}"
    if _grown(failed, before, after):
        yield "a checkpoint could not be written: see logs/learner-0.log"
    aside = _dead(after) - _dead(before)
    if aside > 0:
        yield f"{counted(aside, 'prompt')} put aside: `troupe prompts` says why"


def _dead(frame: Frame) -> int:
    """Prompts that were put aside so far."""
    told = None if frame.completions is None else frame.completions.prompts
    return 0 if told is None else told.dead


def _grown(name: str, before: Frame, after: Frame) -> bool:
    return after.reported.get(name, 0.0) > before.reported.get(name, 0.0)
