"""The prompts of a run as an actor sees them: leased, answered once, or given back."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Literal, NamedTuple

import numpy as np

from troupe.episodes import Episodes
from troupe.prompts import Prompt
from troupe.store.connection import Argument, Store, function, text
from troupe.store.prompt_texts import PromptTexts, keys
from troupe.store.replay import Outcome, Push, ReplayLog
from troupe.store.transaction import Part

_BEAT_SECONDS = 0.5
End = Literal["release", "miss", "bury", "drop"]


class Lease(NamedTuple):
    """A prompt and its whole group, ours to answer until we fall silent."""

    ticket: int
    """Its place in all epochs: the `group` of the fragments that answer it."""
    token: str
    epoch: int
    prompt: Prompt
    closed: bool = False
    """In lockstep, by an earlier life of this actor: what is done with it again has no effect."""


class Wait(NamedTuple):
    """No prompts now."""

    reason: str
    """In words."""
    over: bool
    """There never will be any again: all are answered, or a later attempt has begun."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who answers."""

    name: str
    """Role and slot, such as `actor-3`; of two lives of one slot the later one counts."""
    attempt: int
    policy: str = "agent"
    """Whose weights are used."""


class Leases:
    """One actor's prompts.

    A lease is kept by `heartbeat` and ends by `commit`, `drop`, `release`, `fail` or `bury`. What
    ends in none of them is given to somebody else after `PromptSettings.timeout` seconds; from then
    on the first holder can no longer answer it.

    Args:
        store: where the prompts are, and the log that answers go to.
        log: this actor's shard of it.
        holder: this actor.
    """

    def __init__(self, store: Store, log: ReplayLog, holder: Holder) -> None:
        self._store = store
        self._log = log
        self._holder = holder
        self._keys = keys(store)
        self._versions = store.key("replay", log.shard, "versions")
        self._texts = PromptTexts(store)

    def begin(self) -> int:
        """Call this in a new life: what an earlier one held came to nothing; how many those were.

        Not in lockstep, where the same prompts are leased again by their turn.
        """
        reason = f"{self._holder.name} ended while it had it"
        return int(self._store.call("begin_holder", self._keys, [self._holder.name, reason]))

    def lease(self, count: int, version: int) -> list[Lease] | Wait:
        """Up to `count` prompts, or why there are none; `version` is of the weights that we have.

        None are given that would be too old when their turn to be trained on comes.
        """
        token, holder = uuid.uuid4().hex, self._holder
        arguments: list[Argument] = [holder.attempt, token, holder.name, self._log.shard]
        arguments += [count, holder.policy, version]
        verdict, *rest = self._store.call("lease", [*self._keys, self._versions], arguments)
        if verdict != b"ok":
            return _wait(text(verdict), *map(int, rest))
        tickets = [int(ticket) for ticket in rest]
        return self._leases(token, tickets, [False] * len(tickets))

    def lease_these(self, tickets: Sequence[int]) -> list[Lease] | Wait:
        """In lockstep, exactly these, in ascending order, which are this actor's alone.

        An actor that lived before gets them again, closed where it was done with them. Of tickets
        past the last epoch there are none.
        """
        token, holder = uuid.uuid4().hex, self._holder
        arguments: list[Argument] = [holder.attempt, token, holder.name, self._log.shard, *tickets]
        verdict, *opened = self._store.call("lease_these", self._keys, arguments)
        if verdict != b"ok":
            return _wait(text(verdict))
        return self._leases(token, tickets[: len(opened)], [not one for one in opened])

    def heartbeat(self, leases: Sequence[Lease]) -> list[Lease]:
        """Give a sign of life; those that are lost to us, so that nobody answers them in vain."""
        if not leases:
            return []
        alive = self._store.call("heartbeat", self._keys, _pairs(leases))
        return [lease for lease, held in zip(leases, alive, strict=True) if not held]

    def commit(self, leases: Sequence[Lease], block: Episodes, stop: Event) -> Push:
        """Answer prompts with one block of their groups: it joins the log, or nothing happens.

        The groups of the block are the tickets of the leases, and it is LOST unless all of those are
        still ours that an earlier life had not closed; where it had closed all, it had sent the block
        too, and nothing happens. Waits for room until `stop` is set, and keeps the leases meanwhile. A connection
        that is lost neither loses nor doubles the block. Prompts whose block is refused as stale are
        given back.

        Raises:
            UserError: the block is so large that there can never be room for it.
            StoreError: the store is gone.
        """
        assert {*np.unique(block.group).tolist()} == {lease.ticket for lease in leases}
        ours = [lease for lease in leases if not lease.closed]
        if leases and not ours:
            return Push(Outcome.PUSHED, 0.0)
        receipt = _Answer(self._store, self._holder.name, self._log.shard, ours, self.heartbeat)
        done = self._log.push(block, stop, receipt if ours else None)
        if done.outcome is Outcome.STALE:
            self.release(ours)
        return done

    def drop(self, leases: Sequence[Lease], reason: str) -> int:
        """Close prompts whose answers are of no use, and count them by reason; how many were ours."""
        return self._end("drop", reason, leases)

    def release(self, leases: Sequence[Lease]) -> int:
        """Give prompts back unanswered, through no fault of theirs; how many were ours."""
        return self._end("release", "", leases)

    def fail(self, leases: Sequence[Lease], reason: str) -> int:
        """Say that answering came to nothing: to be tried again, or put aside after the last time."""
        return self._end("miss", reason, leases)

    def bury(self, leases: Sequence[Lease], reason: str) -> int:
        """Put prompts aside that can never be answered; how many were ours."""
        return self._end("bury", reason, leases)

    # How it is done.

    def _end(self, how: End, reason: str, leases: Sequence[Lease]) -> int:
        if not leases:
            return 0
        line = " ".join(reason.split())
        return int(self._store.call("end_lease", self._keys, [how, line, *_pairs(leases)]))

    def _leases(self, token: str, tickets: Sequence[int], closed: Sequence[bool]) -> list[Lease]:
        found = zip(tickets, self._texts.read(tickets), closed, strict=True)
        return [Lease(ticket, token, *one, over) for ticket, one, over in found]


class _Answer:
    """The receipt for a block: with its arrival, its prompts are answered."""

    def __init__(
        self,
        store: Store,
        holder: str,
        shard: int,
        leases: Sequence[Lease],
        heartbeat: Callable[[Sequence[Lease]], object],
    ) -> None:
        self._store = store
        self._holder = holder
        self._shard = shard
        self._leases = leases
        self._heartbeat = heartbeat
        self._due = time.monotonic() + _BEAT_SECONDS

    def command(self, log: Sequence[str], token: str, size: bytes) -> list[Part]:
        """See `Receipt`."""
        names = [*log, *keys(self._store)]
        arguments = [token, self._holder, self._shard, *_pairs(self._leases)]
        parts = [str(part).encode() for part in (len(names), *names, *arguments)]
        return [b"FCALL", function("answer").encode(), *parts[: len(names) + 4], size,
                *parts[len(names) + 4 :]]  # fmt: skip

    def done(self, reservations: str, token: str) -> bool:
        """See `Receipt`."""
        touched = [reservations, *keys(self._store)]
        return bool(self._store.call("answered", touched, [token, self._holder]))

    def wait(self) -> None:
        """See `Receipt`."""
        if time.monotonic() >= self._due:
            self._heartbeat(self._leases)
            self._due = time.monotonic() + _BEAT_SECONDS


def _pairs(leases: Sequence[Lease]) -> list[Argument]:
    return [part for lease in leases for part in (lease.ticket, lease.token)]


def _wait(verdict: str, busy: int = 0, limit: int = 0, age: int = 0) -> Wait:
    """Why there are no prompts, for people."""
    match verdict:
        case "fenced":
            return Wait("the run was started again since", over=True)
        case "over":
            return Wait("every prompt is answered", over=True)
        case "empty":
            return Wait(f"every prompt is given out, and {busy:,} are being answered", over=False)
        case "full":
            return Wait(
                f"{busy:,} of {limit:,} groups under way: another would be too old when it is "
                "trained on",
                over=False,
            )
        case "old":
            return Wait(
                f"newer weights: ours are {age:,} versions old, and {busy:,} groups under way",
                over=False,
            )
        case _:
            return Wait("the learner, which has not brought the prompts yet", over=False)
