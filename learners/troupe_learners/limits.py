"""How much is learned from at once, and how much may wait for it."""

from troupe.jobs.spec import Job
from troupe.store.replay import Limits
from troupe_learners.algorithms import Plan

_MAX_RETAINED_BYTES = 256 * 1024 * 1024
_NO_LIMIT = 2**48


def turn_steps(job: Job, plan: Plan) -> int:
    """Steps of a turn where both sides run freely: the plan's batch, or a block of every actor."""
    return plan.batch or job.actors.count * block_steps(job)


def block_steps(job: Job) -> int:
    """Steps of an actor's block; a game's may have a few more."""
    actors = job.actors
    return actors.block_steps if job.game else actors.environments * actors.rollout


def retained_bytes(job: Job) -> int:
    """Bytes of blocks that the store keeps."""
    return min(_MAX_RETAINED_BYTES, job.store.memory_mb * 2**20 // 2)


def limits_of(job: Job, plan: Plan) -> Limits:
    """What may wait in the store.

    Where whole blocks are learned from, one turn waits while another is learned from: more would
    only grow old. A block may be a little short (a failed environment's step is none), and then
    there is room for one more. In lockstep, turns themselves are the limit.
    """
    capacity, staleness = job.store.capacity, job.store.max_staleness
    if job.schedule == "lockstep":
        capacity = staleness = _NO_LIMIT
    elif plan.whole:
        spare = 2 if job.game else 1
        waiting = max(turn_steps(job, plan), spare * job.actors.count * block_steps(job))
        waiting += block_steps(job) - 1
        capacity = max(turn_steps(job, plan), min(capacity, waiting))
        staleness = _NO_LIMIT if plan.replay else staleness
    return Limits(capacity, staleness, retained_bytes(job))
