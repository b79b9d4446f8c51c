"""One run: its processes are started, watched over, and ended; on this machine or on a cluster."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from troupe.config import dump
from troupe.errors import TroupeError
from troupe.jobs import joined, local
from troupe.jobs.crew import Crew, Ground, RunError
from troupe.jobs.spec import Job
from troupe.jobs.tails import Tails
from troupe.live import View
from troupe.monitor import Monitor
from troupe.prompts.record import PromptRecord
from troupe.runs import RunFolder
from troupe.store.board import Board
from troupe.store.connection import Store

TICK = 0.5
ANSWER_SECONDS = 3.0
"""For the store to answer the launcher, which must hear a person meanwhile."""


def run(
    job: Job, folder: RunFolder, view: View, stop: threading.Event, address: str | None = None
) -> bool:
    """Run a job to its own limit, or until `stop` is set; true where its limit ended it.

    Everything that was started is gone when this returns or raises, and within seconds also when
    this process is killed.

    Args:
        address: of the Ray cluster to run on; none runs it on this machine, with a Ray of its own.

    Raises:
        UserError: the job asks for what cannot be had.
        RunError: a part failed for good, or the last save did. The run can be resumed.
    """
    with ExitStack() as stack:
        attempt = stack.enter_context(folder.attempt())
        ground: Ground
        if address is None:
            ground = stack.enter_context(local.ground(job, folder))
        else:
            ground = stack.enter_context(joined.ground(job, folder, attempt, address))
        store = Store.connect(
            ground.store_url, folder.identity, timeout=ANSWER_SECONDS, patient=False
        )
        stack.callback(store.close)
        board = Board(store)
        board.clear_stop()
        announce = partial(board.put, "launch", {"job": dump(job), "attempt": attempt})
        announce()
        if not ground.connect(stop):
            return False
        crew = Crew(job, view, ground, announce)
        record = PromptRecord(store, folder.path)
        monitor = stack.enter_context(Monitor(board, folder, job))
        chores: list[Callable[[], object]] = [record.poll, partial(_rescale, crew, folder)]
        if address is not None:
            chores.append(partial(_tell, Tails(folder.logs), view))
        complete = _watch(crew, board, monitor, chores, view, stop, ground.stop_seconds)
        with suppress(TroupeError):
            record.write()
        if complete:
            folder.set_status("done")
        return complete


def _watch(
    crew: Crew,
    board: Board,
    monitor: Monitor,
    chores: Sequence[Callable[[], object]],
    view: View,
    stop: threading.Event,
    patience: float,
) -> bool:
    """Look after the run until its learner is done; true where its own limit ended it.

    Raises:
        RunError: told to stop, the learner did not save.
    """
    deadline = None
    while not crew.learned():
        frame = monitor.poll()
        view.show(frame)
        for chore in chores:
            with suppress(TroupeError):  # a full disk: what is being learned matters more
                chore()
        crew.look_after()
        if stop.is_set() and deadline is None:
            if not frame.training:
                return False  # there is nothing to save yet
            view.event("stopping: the learner finishes its update and saves")
            board.request_stop("told to stop")
            crew.stopping = True
            deadline = time.monotonic() + patience
        if deadline is not None and time.monotonic() > deadline:
            raise RunError(
                f"the learner did not save within {patience:.0f} s and was killed; what it had "
                "saved before is safe"
            )
        time.sleep(TICK) if stop.is_set() else stop.wait(TICK)
    view.show(monitor.poll())
    board.request_stop("the learner is done")
    return deadline is None


def _rescale(crew: Crew, folder: RunFolder) -> None:
    """Have as many actors as somebody wished for meanwhile."""
    wanted = folder.actors_wanted()
    if wanted is not None:
        crew.resize(wanted)


def _tell(tails: Tails, view: View) -> None:
    """Show what workers wrote into their logs: whoever follows the launcher hears all of them."""
    for worker, line in tails.poll():
        view.event(f"{worker} | {line}")
