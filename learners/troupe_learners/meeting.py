"""How the ranks of a learner find one another, and find one another again when one of them was lost.

Each says on the board that it is there, by its incarnation. The first one waits for incarnations of
all others that were in no meeting before, then calls the meeting. Whoever is still in an earlier one
finds that it is over, and comes too.
"""

from threading import Event

import torch

from troupe.jobs.setting import Connections, WorkerSetting
from troupe.store.board import Board
from troupe_learners.ranks import Ranks

_MEETING = "ranks"
_ARRIVAL = 10.0
"""Seconds to wait for ranks that were there a moment ago."""
_LOOK_SECONDS = 0.05


def meet(setting: WorkerSetting, ends: Connections, device: torch.device) -> Ranks | None:
    """All ranks, once they are there; None if told to stop before.

    Raises:
        RankLostError: one of them ended again in the meantime.
    """
    size, rank = ends.job.learner.count, setting.slot
    if size == 1:
        return Ranks()
    stop = ends.reporter.stop
    own = {"attempt": ends.attempt, "incarnation": ends.incarnation}
    ends.board.put(_here(rank), own)
    ends.metrics.set("waiting_for", "the other ranks of the learner")
    if rank == 0:
        members = _called(ends.board, ends.attempt, size, stop)
    else:
        members = _invited(ends.board, own, rank, stop)
    if members is None:
        return None
    ends.metrics.set("waiting_for", "")
    name = f"ranks-{ends.attempt}-{'-'.join(map(str, members))}"
    return Ranks(rank, size, device, setting.run_folder / name, arrival=_ARRIVAL)


def _called(board: Board, attempt: int, size: int, stop: Event) -> list[int] | None:
    """The first rank's part: the incarnations of all, once they are new ones."""
    before = board.get(_MEETING) or {}
    gone = before["members"] if before.get("attempt") == attempt else [None] * size
    assert isinstance(gone, list)
    while True:
        here = [board.get(_here(rank)) or {} for rank in range(size)]
        members = [int(str(d["incarnation"])) for d in here if d.get("attempt") == attempt]
        if len(members) == size and all(
            now != then for now, then in zip(members, gone, strict=True)
        ):
            board.put(_MEETING, {"attempt": attempt, "members": members})
            return members
        if stop.wait(_LOOK_SECONDS):
            return None


def _invited(board: Board, own: dict[str, int], rank: int, stop: Event) -> list[int] | None:
    """Any other rank's part: the incarnations of all, once this one is among them."""
    while True:
        meeting = board.get(_MEETING) or {}
        members = meeting.get("members") if meeting.get("attempt") == own["attempt"] else None
        if isinstance(members, list) and members[rank] == own["incarnation"]:
            return members
        if stop.wait(_LOOK_SECONDS):
            return None


def _here(rank: int) -> str:
    return f"{_MEETING}-{rank}"
