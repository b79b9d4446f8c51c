"""How much is learned from at once, and how much may wait for it; of each rank's own actors."""

from troupe.jobs.spec import Job, TextSettings
from troupe.store.replay import Limits
from troupe_learners.algorithms import Plan

_MAX_RETAINED_BYTES = 256 * 1024 * 1024
_NO_LIMIT = 2**48


def slots(job: Job, rank: int) -> range:
    """The actors whose blocks a rank learns from."""
    return range(rank, job.actors.count, job.learner.count)


def turn_steps(job: Job, plan: Plan, rank: int = 0) -> int:
    """Steps of a rank's turn where both sides run freely.

    That is its share of the plan's batch, or a block of each of its actors; of text, groups.
    """
    if job.text is not None:
        return turn_groups(job.text, job.learner.count, rank)
    if plan.batch:
        return len(range(rank, plan.batch, job.learner.count))
    return len(slots(job, rank)) * block_steps(job)


def turn_groups(text: TextSettings, ranks: int, rank: int = 0) -> int:
    """Of text, the prompts whose completions a rank learns from together."""
    return len(range(rank, text.groups, ranks))


def block_steps(job: Job) -> int:
    """Steps of an actor's block; a game's may have a few more."""
    actors = job.actors
    return actors.block_steps if job.game else actors.environments * actors.rollout


def retained_bytes(job: Job) -> int:
    """Bytes of blocks that the store keeps for each rank."""
    return min(_MAX_RETAINED_BYTES, job.store.memory_mb * 2**20 // 2) // job.learner.count


def limits_of(job: Job, plan: Plan, rank: int = 0) -> Limits:
    """What may wait in a rank's shard of the store.

    Where whole blocks are learned from, one turn waits while another is learned from: more would
    only grow old. A block may be a little short (a failed environment's step is none), and then
    there is room for one more. In lockstep, turns themselves are the limit.
    """
    own, turn = len(slots(job, rank)), turn_steps(job, plan, rank)
    capacity, staleness = -(-job.store.capacity * own // job.actors.count), job.store.max_staleness
    if job.schedule == "lockstep":
        capacity = staleness = _NO_LIMIT
    elif job.text is not None:
        capacity = _NO_LIMIT
    elif plan.whole:
        waiting = max(turn, _turns_at_once(job) * own * block_steps(job)) + block_steps(job) - 1
        capacity = max(turn, min(capacity, waiting))
        staleness = _NO_LIMIT if plan.replay else staleness
    return Limits(capacity, staleness, retained_bytes(job))


def _turns_at_once(job: Job) -> int:
    """How many turns may have to wait together: policies may all lack a little of theirs.

    Ranks wait for one another, and one may have more of a policy than the others have.
    """
    if job.game is None:
        return 1
    policies = len({*job.policies.values()})
    return max(2, policies * (2 if policies > 1 and job.learner.count > 1 else 1))
