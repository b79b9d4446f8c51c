"""Members of the pool that other runs have: found, and seen to fit, when a job starts."""

from collections.abc import Sequence
from pathlib import Path

from troupe import checkpoint
from troupe.errors import UserError
from troupe.jobs.roles import title
from troupe.jobs.spec import Job
from troupe.league.pool import Member
from troupe.runs import RunFolder

_KEY = "opponents.named"


def find(job: Job) -> tuple[str, ...]:
    """The checkpoints that the job's named opponents stand for, of a run the newest.

    Raises:
        UserError: there is no such run or checkpoint, or it would not fit the job.
        CheckpointError: a run has no checkpoint yet.
    """
    found = [_checkpoint(text) for text in _named(job)]
    for path in found:
        _member(path, job)
    if len(set(found)) < len(found):
        twice = next(str(path) for path in found if found.count(path) > 1)
        raise UserError(f"{_KEY}: {twice} is there twice; name each once")
    return tuple(map(str, found))


def members(job: Job) -> tuple[Member, ...]:
    """The job's named opponents.

    Raises:
        UserError: as `find`.
    """
    return tuple(_member(_checkpoint(text), job) for text in _named(job))


def _named(job: Job) -> Sequence[str]:
    return () if job.opponents is None else job.opponents.named


def _checkpoint(text: str) -> Path:
    path = Path(text)
    if (path / checkpoint.MANIFEST).is_file():
        return path.resolve()
    try:
        return checkpoint.newest(RunFolder.find(text).path).resolve()
    except UserError as error:
        raise UserError(f"{_KEY}: {error}") from None


def _member(path: Path, job: Job) -> Member:
    run = path.parent.parent
    if not (run / "job.yaml").is_file():
        raise UserError(f"{_KEY}: {path}: lies in no run's folder; name one that does, or the run")
    theirs = RunFolder(run).job()
    if theirs.game != job.game:
        raise UserError(
            f"{_KEY}: {run}: plays {title(theirs)} and not {title(job)}, or by other rules; name a "
            "run of the same game"
        )
    if theirs.network != job.network:
        raise UserError(
            f"{_KEY}: {run}: its network is not like this job's; give this job the same `network`"
        )
    return Member(
        name=f"{run.name}/{path.name}", folder=str(path), policies=_same(run, theirs, job)
    )


def _same(run: Path, theirs: Job, job: Job) -> dict[str, str]:
    """By policy of the job, which of theirs plays its seats."""
    same: dict[str, str] = {}
    for seat, policy in job.policies.items():
        other = theirs.policies.get(seat, seat)
        if same.setdefault(policy, other) != other:
            raise UserError(
                f"{_KEY}: {run}: {same[policy]!r} and {other!r} play what is {policy!r} here; name "
                "a run in which seats share policies as in this job"
            )
    return same
