"""A run's prompts with their learner and actors in one process, for the tests of the store."""

import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np

from troupe.episodes import Ending, Episodes
from troupe.prompts import Prompt, PromptSettings
from troupe.store.connection import Store
from troupe.store.leases import Holder, Lease, Leases, Wait
from troupe.store.prompt_progress import PromptProgress
from troupe.store.prompts import PromptStore, Rule
from troupe.store.replay import START, Limits, Outcome, ReplayLog

SETTINGS = PromptSettings(path="prompts.jsonl", epochs=1, shuffle=False, deliveries=3)
FREE = Rule(groups=0, max_staleness=0)
NEVER = threading.Event()
SEED = 7


def prompts(count: int) -> list[Prompt]:
    return [Prompt(i, f"sort {i}", answer=[i], row={"level": i % 3}) for i in range(count)]


class Run:
    """A run's learner and its actors, in one process."""

    def __init__(
        self,
        store: Store,
        count: int = 8,
        rule: Rule = FREE,
        using: PromptSettings = SETTINGS,
        url: str | None = None,
    ) -> None:
        self.store = store
        self.count = count
        self.rule = rule
        self.using = using
        self.url = url
        self.position = START
        self.saved: PromptProgress | None = None
        self.version = 5
        self.begin(attempt=1)

    def begin(self, attempt: int) -> None:
        """What a learner does when it begins, from what is saved."""
        self.attempt = attempt
        self.log = ReplayLog(self.store)
        versions = {"agent": self.version}
        self.log.restore(samples=0, versions=versions, attempt=attempt, position=self.position)
        self.log.configure(Limits(capacity_steps=10_000, max_staleness=2))
        self.prompts = PromptStore(self.store, self.using, SEED)
        self.prompts.load(prompts(self.count), attempt, self.saved)
        self.prompts.restore(0, self.rule, attempt, self.saved)

    def actor(self, slot: int = 0, attempt: int | None = None) -> Leases:
        holder = Holder(f"actor-{slot}", self.attempt if attempt is None else attempt)
        return Leases(self.store, ReplayLog(self.store), holder)

    def publish(self, version: int) -> None:
        self.version = version
        self.log.published("agent", version)

    def answered(self) -> Counter[int]:
        """How often each ticket is answered in the log."""
        taken = self.log.take(START, count=999, timeout=0)
        return Counter(int(t) for one in taken for t in np.unique(one.block.group))

    def expire(self, *leases: Lease) -> None:
        """Let the time of leases be over, as if it had passed."""
        expiry = self.store.key("prompts", "expiry")
        for lease in leases:
            self.store.redis.zadd(expiry, {str(lease.ticket): 1}, xx=True)


def block(leases: Sequence[Lease], *, version: int = 5, attempt: int = 1) -> Episodes:
    """Two completions of three tokens for each prompt."""
    groups = 2 * len(leases)
    steps = 3 * groups
    return Episodes(
        policy="agent",
        actor="actor-0",
        incarnation=0,
        attempt=attempt,
        observation={},
        action={"action": np.zeros(steps, np.int32)},
        reward=np.zeros(steps, np.float32),
        log_prob=np.zeros(steps, np.float32),
        version=np.full(steps, version, np.uint32),
        length=np.full(groups, 3, np.int32),
        seat=np.zeros(groups, np.uint8),
        group=np.repeat(np.array([lease.ticket for lease in leases], np.int64), 2),
        ending=np.full(groups, Ending.TERMINATED, np.uint8),
    )


def got(answer: list[Lease] | Wait) -> list[Lease]:
    assert not isinstance(answer, Wait), answer.reason
    return answer


def refused(answer: list[Lease] | Wait) -> Wait:
    assert isinstance(answer, Wait)
    return answer


def tickets(leases: Sequence[Lease]) -> list[int]:
    return [lease.ticket for lease in leases]


def commit(actor: Leases, *leases: Lease, version: int = 5, attempt: int = 1) -> Outcome:
    return actor.commit(leases, block(leases, version=version, attempt=attempt), NEVER).outcome


def save(run: Run) -> None:
    """All that waits is trained on and saved, then the log may forget it."""
    taken = run.log.take(run.position, count=99, timeout=0)
    run.prompts.consumed(0, [int(t) for one in taken for t in one.block.group])
    run.saved = PromptProgress.load(run.prompts.progress().dump())
    run.position = taken[-1].id
