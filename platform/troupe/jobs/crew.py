"""The workers of a run: started, watched over, started again, and more or fewer of them while it runs."""

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event
from typing import Literal, Protocol

from troupe.errors import FatalError, TroupeError, UserError
from troupe.jobs.spec import Job
from troupe.live import View
from troupe.store import StoreError

RELAY = "relay"
PATHS = {
    "weights": "troupe.weights.worker:WeightServer",
    RELAY: "troupe.weights.worker:Relay",
    "learner": "troupe_learners.worker:Learner",
    "actor": "troupe_actors.worker:Actor",
    "evaluator": "troupe_actors.evaluator:Evaluator",
}
FAILURES = 4
FAILURE_SECONDS = 120.0


class RunError(TroupeError):
    """The run cannot go on; what it saved is safe."""


class Worker(Protocol):
    """A worker somewhere. Killed, it is started again by itself; failed, it tells why."""

    def start_again(self) -> None:
        """Run it once more after a failure."""
        ...

    def outcome(self) -> BaseException | Literal[True] | None:
        """True once it returned, its error once it failed, None while it runs or waits for room."""
        ...

    def end(self) -> None:
        """Kill it for good."""
        ...


class Ground(Protocol):
    """Where a run's processes run."""

    @property
    def store_url(self) -> str:
        """The run's store, with its password."""
        ...

    @property
    def stop_seconds(self) -> float:
        """How long the learner may take to save when it is told to stop."""
        ...

    def connect(self, stop: Event) -> bool:
        """Get ready to start workers; false if `stop` was set first."""
        ...

    def parts(self) -> Mapping[str, Callable[[], bool]]:
        """Of each part that nothing works without, whether it still runs."""
        ...

    def worker(self, role: str, slot: int) -> Worker:
        """Start a worker."""
        ...

    def nodes(self) -> Collection[int]:
        """The numbers of the nodes that have a relay for weights; none where no node needs one."""
        ...


@dataclass
class Post:
    """A worker's place, and how it fared there."""

    role: str
    slot: int
    worker: Worker
    failures: list[float] = field(default_factory=list)
    due: float | None = None
    """When it is to be started again after a failure."""
    done: bool = False

    @property
    def name(self) -> str:
        """Role and slot, such as `actor-3`."""
        return f"{self.role}-{self.slot}"


class Crew:
    """The workers of a run. A killed one is started again by Ray, a failed one from here."""

    def __init__(self, job: Job, view: View, ground: Ground, announce: Callable[[], None]) -> None:
        """`announce` tells the store of the run: one that lost its memory has to be told again."""
        self.stopping = False
        """Told to stop: from now on a learner that fails has failed to save."""
        self._ground = ground
        self._parts = ground.parts()
        self._view = view
        self._announce = announce
        self._posts: dict[tuple[str, int], Post] = {}
        self._set("weights", range(1))
        self._set("learner", range(job.learner.count))
        self._set("actor", range(0 if job.actors.colocated else job.actors.count))
        self._set("evaluator", range(int(job.evaluation.every > 0)))

    def learned(self) -> bool:
        """Whether the learner is done: no rank of it returns before all is saved."""
        return any(post.done for post in self._posts.values() if post.role == "learner")

    def resize(self, actors: int) -> None:
        """Have so many actors from now on; those that are too many are ended."""
        before = sum(role == "actor" for role, _ in self._posts)
        if actors != before:
            self._set("actor", range(actors))
            self._view.event(f"{actors} actors instead of {before}")

    def look_after(self) -> None:
        """See to workers that returned or failed, and to nodes that came or went.

        Raises:
            UserError: a worker says that the job cannot be run.
            FatalError: a worker met what it would only meet again.
            RunError: Ray or the store is gone, or a worker fails again and again.
        """
        for part, alive in self._parts.items():
            if not alive():
                raise RunError(f"{part} ended unexpectedly; nothing saved is harmed")
        self._set(RELAY, self._ground.nodes())
        for post in list(self._posts.values()):
            if post.done:
                continue
            outcome = post.worker.outcome()
            if outcome is True:
                post.done = True
            elif isinstance(outcome, UserError | FatalError):
                raise outcome
            elif isinstance(outcome, BaseException):
                self._failed(post, outcome)

    def _set(self, role: str, slots: Collection[int]) -> None:
        """Have exactly these slots of a role."""
        for key in [key for key in self._posts if key[0] == role and key[1] not in slots]:
            self._posts.pop(key).worker.end()
        for slot in slots:
            if (role, slot) not in self._posts:
                self._posts[role, slot] = Post(role, slot, self._ground.worker(role, slot))

    def _failed(self, post: Post, error: BaseException) -> None:
        now = time.monotonic()
        if post.due is None:
            post.failures = [t for t in post.failures if now - t < FAILURE_SECONDS] + [now]
            post.due = now + 2.0 ** (len(post.failures) - 1)
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            text = f"{post.name} failed: {reason[0]}"
            unsaved = self.stopping and post.role == "learner"
            if unsaved or len(post.failures) >= FAILURES:
                raise RunError(f"{text} (log: logs/{post.name}.log)")
            self._view.event(text)
        elif now >= post.due:
            post.due = None
            with suppress(StoreError):  # away: the worker will fail again
                self._announce()
            post.worker.start_again()
