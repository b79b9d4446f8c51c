"""One run on this machine: start its processes, watch over them, end them."""

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from troupe.config import dump
from troupe.errors import FatalError, TroupeError, UserError
from troupe.jobs import guardian as guard
from troupe.jobs import setting
from troupe.jobs.cluster import LocalCluster, RayWorker, environment
from troupe.jobs.spec import Job
from troupe.live import View
from troupe.monitor import Monitor
from troupe.prompts.record import PromptRecord
from troupe.runs import RunFolder, writing
from troupe.store import StoreError, server
from troupe.store.board import Board
from troupe.store.connection import Store, check_server

PATHS = {
    "weights": "troupe.weights.worker:WeightServer",
    "learner": "troupe_learners.worker:Learner",
    "actor": "troupe_actors.worker:Actor",
    "evaluator": "troupe_actors.evaluator:Evaluator",
}
STORE_PASSWORD = "TROUPE_STORE_PASSWORD"
MEMORY = Path("/dev/shm")
MIN_MEMORY_BYTES = 512 * 1024 * 1024
"""Several versions of all weights lie there at once; a container has 64 MiB unless told otherwise."""
TICK = 0.5
STOP_SECONDS = 7.0
ANSWER_SECONDS = 3.0
"""For the store to answer the launcher, which must hear a person meanwhile."""
FAILURES = 4
FAILURE_SECONDS = 120.0


class RunError(TroupeError):
    """The run cannot go on; what it saved is safe."""


def run(job: Job, folder: RunFolder, view: View, stop: threading.Event) -> bool:
    """Run a job to its own limit, or until `stop` is set; true where its limit ended it.

    Everything that was started is gone when this returns or raises, and within seconds also when
    this process is killed.

    Raises:
        UserError: the job asks for what cannot be had.
        RunError: a part failed for good, or the last save did. The run can be resumed.
    """
    with ExitStack() as stack:
        attempt = stack.enter_context(folder.attempt())
        identity = folder.identity
        scratch, shared = _scratch()
        exported = {
            **environment(),
            guard.MARK: secrets.token_hex(16),
            setting.RUN: identity,
            setting.RUN_FOLDER: str(folder.path.absolute()),
            setting.NODE_FOLDER: str(shared),
            setting.WEIGHTS_TOKEN: secrets.token_urlsafe(32),
        }
        stack.callback(guard.Guardian(exported[guard.MARK], [scratch, shared]).finish)
        stack.enter_context(_exported(exported))
        url, store_alive = _store(job, scratch)
        stack.enter_context(_exported({setting.STORE_URL: url}))
        cluster = LocalCluster(scratch)
        store = Store.connect(url, identity, timeout=ANSWER_SECONDS, patient=False)
        stack.callback(store.close)
        board = Board(store)
        board.clear_stop()
        announce = partial(board.put, "launch", {"job": dump(job), "attempt": attempt})
        announce()
        if not cluster.connect(stop):
            return False
        stack.callback(cluster.disconnect)
        crew = Crew(job, view, {"Ray": cluster.alive, "the store": store_alive}, announce)
        record = PromptRecord(store, folder.path)
        monitor = stack.enter_context(Monitor(board, folder, job))
        complete = _watch(crew, board, monitor, record, view, stop)
        if complete:
            folder.set_status("done")
        return complete


def _watch(
    crew: "Crew",
    board: Board,
    monitor: Monitor,
    record: PromptRecord,
    view: View,
    stop: threading.Event,
) -> bool:
    """Look after the run until its learner is done; true where its own limit ended it.

    Raises:
        RunError: told to stop, the learner did not save.
    """
    deadline = None
    while not crew.learned():
        frame = monitor.poll()
        view.show(frame)
        with suppress(TroupeError):  # a full disk: what is being learned matters more
            record.poll()
        crew.look_after()
        if stop.is_set() and deadline is None:
            if not frame.training:
                return False  # there is nothing to save yet
            view.event("stopping: the learner finishes its update and saves")
            board.request_stop("told to stop")
            crew.stopping = True
            deadline = time.monotonic() + STOP_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            raise RunError(
                f"the learner did not save within {STOP_SECONDS:.0f} s and was killed; what it had "
                "saved before is safe"
            )
        time.sleep(TICK) if stop.is_set() else stop.wait(TICK)
    view.show(monitor.poll())
    with suppress(TroupeError):
        record.write()
    board.request_stop("the learner is done")
    return deadline is None


@dataclass
class Post:
    """A worker's place, and how it fared there."""

    worker: RayWorker
    failures: list[float] = field(default_factory=list)
    due: float | None = None
    """When it is to be started again after a failure."""
    done: bool = False


class Crew:
    """The workers of a run. A killed one is started again by Ray, a failed one from here."""

    def __init__(
        self,
        job: Job,
        view: View,
        foundations: Mapping[str, Callable[[], bool]],
        announce: Callable[[], None],
    ) -> None:
        """`foundations` says of each part that nothing works without whether it still runs.

        `announce` tells the store of the run: one that lost its memory has to be told again.
        """
        slots = {
            "weights": 1,
            "learner": job.learner.count,
            "actor": 0 if job.actors.colocated else job.actors.count,
            "evaluator": int(job.evaluation.every > 0),
        }
        self.stopping = False
        """Told to stop: from now on a learner that fails has failed to save."""
        self._foundations = foundations
        self._view = view
        self._announce = announce
        self._posts = [
            Post(RayWorker(PATHS[role], role, slot))
            for role, count in slots.items()
            for slot in range(count)
        ]

    def learned(self) -> bool:
        """Whether the learner is done: no rank of it returns before all is saved."""
        return any(post.done for post in self._posts if post.worker.role == "learner")

    def look_after(self) -> None:
        """See to workers that returned or failed.

        Raises:
            UserError: a worker says that the job cannot be run.
            FatalError: a worker met what it would only meet again.
            RunError: Ray or the store is gone, or a worker fails again and again.
        """
        for part, alive in self._foundations.items():
            if not alive():
                raise RunError(f"{part} ended unexpectedly; nothing saved is harmed")
        for post in self._posts:
            if post.done:
                continue
            outcome = post.worker.outcome()
            if outcome is True:
                post.done = True
            elif isinstance(outcome, UserError | FatalError):
                raise outcome
            elif isinstance(outcome, BaseException):
                self._failed(post, outcome)

    def _failed(self, post: Post, error: BaseException) -> None:
        now = time.monotonic()
        if post.due is None:
            post.failures = [t for t in post.failures if now - t < FAILURE_SECONDS] + [now]
            post.due = now + 2.0 ** (len(post.failures) - 1)
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            text = f"{post.worker.name} failed: {reason[0]}"
            unsaved = self.stopping and post.worker.role == "learner"
            if unsaved or len(post.failures) >= FAILURES:
                raise RunError(f"{text} (log: logs/{post.worker.name}.log)")
            self._view.event(text)
        elif now >= post.due:
            post.due = None
            with suppress(StoreError):  # away: the worker will fail again
                self._announce()
            post.worker.start_again()


def check_store(job: Job, run: str | None = None) -> None:
    """See that the job's own store, if it names one, can be used, by `run` if that goes on there.

    Raises:
        UserError, StoreError: it cannot.
    """
    if job.store.url is None:
        return
    url = _with_password(job.store.url)
    check_server(url)
    if run is not None:
        Store.check(url, run)


def _store(job: Job, scratch: Path) -> tuple[str, Callable[[], bool]]:
    """The URL, password included, of the job's store or of one started for the run; whether it runs."""
    if job.store.url is not None:
        # Others look after it; its clients wait for it while it is away.
        return _with_password(job.store.url), lambda: True
    password = secrets.token_urlsafe(32)
    started = server.start(scratch, password=password, memory_mb=job.store.memory_mb)
    return started.url, started.alive


def _with_password(url: str) -> str:
    """A store's URL with the password that the environment holds for it."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError(f"store.url: not a URL such as redis://host:port: {error}") from None
    if parts.password or "password" in parse_qs(parts.query):
        raise UserError(
            f"store.url: a job file is no place for a password; export {STORE_PASSWORD} instead"
        )
    password = os.environ.get(STORE_PASSWORD)
    if not password:
        return url
    at = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{at}").geturl()


def _scratch() -> tuple[Path, Path]:
    """A folder on disk for sockets and logs, and one for weights, in memory where there is room."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MIN_MEMORY_BYTES
    shared = MEMORY if roomy and os.access(MEMORY, os.W_OK) else None
    with writing(Path(tempfile.gettempdir())):
        disk = Path(tempfile.mkdtemp(prefix="troupe-"))
        return disk, Path(tempfile.mkdtemp(prefix="troupe-", dir=shared))


@contextmanager
def _exported(variables: Mapping[str, str]) -> Iterator[None]:
    """Put variables into the environment that started processes inherit, and take them out again."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
