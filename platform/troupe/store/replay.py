"""The log between actors and learners: bounded, in order, kept until it is acknowledged."""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, cast

import redis

from troupe.codec import CodecError, decode, encode
from troupe.episodes import Episodes
from troupe.errors import UserError
from troupe.store import StoreEmptiedError, StoreError
from troupe.store.connection import Argument, Store, function, text
from troupe.store.limiter import Counters, RateLimit, may_insert
from troupe.store.transaction import Part, Receipt, transact

START = "0-0"
"""Before the first entry of a log."""
END = f"{2**64 - 1}-0"
"""Behind every entry of a log."""
_LEASE_MS = 60_000
_POLL_SECONDS = (0.002, 0.05)
_BLOCK_SECONDS = 1.0
_EARLY_CHECKPOINT = 0.75


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be in a log at once."""

    capacity_steps: int
    """Steps that wait for the learner."""
    max_staleness: int
    """A block is refused if its oldest weights are more versions behind the newest published ones."""
    retained_bytes: int = 256 * 1024 * 1024
    """Bytes kept, waiting or not yet acknowledged; well below the server's memory limit."""
    rate: RateLimit | None = None
    """How inserting and sampling are tied; none is a queue of `capacity_steps`."""


class Outcome(Enum):
    """What became of a block."""

    PUSHED = "pushed"
    STALE = "stale"
    """Its weights are too old: play on with newer ones."""
    FENCED = "fenced"
    """It belongs to an earlier attempt at this run."""
    STOPPED = "stopped"
    """We were told to stop before there was room."""
    LOST = "lost"
    """It answers a prompt that was given to somebody else meanwhile."""


class Push(NamedTuple):
    """What became of a block, and what that took."""

    outcome: Outcome
    waited: float
    """Seconds spent waiting for room."""


class Taken(NamedTuple):
    """A block from the log."""

    id: str
    block: Episodes
    bytes: int


class LimiterState(NamedTuple):
    """A log at one moment."""

    inserts: int
    """Steps ever inserted."""
    samples: int
    """Steps ever sampled."""
    retained_blocks: int
    retained_bytes: int
    checkpoint_wanted: bool
    """Memory runs short: a checkpoint now would let the log forget what it holds."""
    waiting: str
    """Who waits for whom and why, for people; empty if nobody does."""

    @property
    def backlog(self) -> int:
        """Steps that wait for the learner."""
        return self.inserts - self.samples


class ReplayLog:
    """One shard of the log. Actors push; one learner takes, reports and acknowledges.

    Every entry stays until `acknowledge`: a learner calls it when a durable checkpoint contains the
    effect of all entries up to there, so that what a dead learner had taken is not lost.
    """

    def __init__(self, store: Store, shard: int = 0) -> None:
        self.store = store
        self.shard = shard
        self.damaged = 0
        """Blocks that were skipped because they could not be read."""
        self.waiting_for = ""
        """What our own push waits for, in words; empty while it does not."""
        self._waits_because = ""
        self._damaged_ids: set[str] = set()
        self._limits: Limits | None = None
        self._attempt = 0
        self._generation = store.generation()
        self._log, self._sizes, self._state, self._versions, self._reservations = (
            store.key("replay", shard, name)
            for name in ("log", "sizes", "state", "versions", "reservations")
        )
        self._actors_wait = store.key("replay", shard, "actors-wait")
        self._learner_waits = store.key("replay", shard, "learner-waits")

    # Both sides.

    def configure(self, limits: Limits) -> None:
        """Set the limits, at any time; until they are set first, nothing can be pushed.

        Raises:
            UserError: the limits can leave both sides waiting for ever.
        """
        rate = limits.rate or RateLimit.queue(limits.capacity_steps)
        rate.check()
        if limits.max_staleness < 0 or limits.retained_bytes <= 0:
            raise UserError(f"store: {limits} must have limits above 0")
        values: dict[str, Argument] = {
            "samples_per_insert": rate.samples_per_insert,
            "min_size": rate.min_size,
            "min_diff": rate.min_diff,
            "max_diff": rate.max_diff,
            "max_staleness": limits.max_staleness,
            "max_bytes": limits.retained_bytes,
        }
        self.store.call("put", [self._state], [part for pair in values.items() for part in pair])
        self._limits = limits

    def state(self) -> LimiterState:
        """Counters, and who waits for whom."""
        with self.store.guard():
            pipe = self.store.redis.pipeline()
            pipe.hgetall(self._state)
            pipe.llen(self._sizes)
            pipe.get(self._actors_wait)
            pipe.get(self._learner_waits)
            fields, blocks, actors_wait, learner_waits = pipe.execute()
        at = _numbers(fields)
        reason = actors_wait.decode() if actors_wait else ""
        idle = "learner waits for actors: queue empty" if learner_waits else ""
        nearly_full = at["retained_bytes"] > _EARLY_CHECKPOINT * at["max_bytes"] > 0
        return LimiterState(
            inserts=int(at["inserts"]),
            samples=int(at["samples"]),
            retained_blocks=int(blocks),
            retained_bytes=int(at["retained_bytes"]),
            checkpoint_wanted=nearly_full or reason == "retained",
            waiting=_words(reason, at) or idle,
        )

    # Actors.

    def push(self, block: Episodes, stop: threading.Event, receipt: Receipt | None = None) -> Push:
        """Append one block, waiting for room until `stop` is set; with a receipt, both or neither."""
        return self.push_many([block], stop, receipt)[0]

    def push_many(
        self, blocks: Sequence[Episodes], stop: threading.Event, receipt: Receipt | None = None
    ) -> list[Push]:
        """Append blocks of one actor in order with few round trips; each has an outcome of its own.

        A receipt is for one block.

        Raises:
            UserError: a block is so large that there can never be room for it.
            StoreError: the store is gone.
        """
        started, delay = time.monotonic(), 0.0
        done: dict[int, Push] = {}
        while left := [i for i in range(len(blocks)) if i not in done]:
            waited = time.monotonic() - started if delay else 0.0
            if stop.wait(delay):
                done.update((i, Push(Outcome.STOPPED, waited)) for i in left)
                break
            token = uuid.uuid4().hex
            verdicts = dict(zip(left, self._reserve(token, [blocks[i] for i in left]), strict=True))
            ready = [i for i in left if verdicts[i] == "ok"]
            if ready:
                verdict = self._append(token, [blocks[i] for i in ready], receipt)
                verdicts.update(dict.fromkeys(ready, verdict))
            done.update(
                (i, Push(outcome, waited))
                for i in left
                if (outcome := _OUTCOMES.get(verdicts[i])) is not None
            )
            blocked = next((i for i in left if i not in done), None)
            if blocked is not None:
                self._explain(verdicts[blocked], blocks[blocked])
                if receipt is not None:
                    receipt.wait()
                delay = min(max(1.5 * delay, _POLL_SECONDS[0]), _POLL_SECONDS[1])
        self._waits_because = self.waiting_for = ""
        return [done[i] for i in range(len(blocks))]

    # The learner.

    def take(self, after: str, *, count: int, timeout: float) -> list[Taken]:
        """Up to `count` blocks behind the entry `after`, waiting up to `timeout` seconds for the first.

        A damaged block is skipped and counted in `damaged`.

        Raises:
            StoreEmptiedError: the store lost its memory: call `restore`, and take from `START`.
        """
        deadline = time.monotonic() + timeout
        block_ms = 0
        while True:
            entries = self._read(after, count, block_ms)
            if taken := [one for entry in entries if (one := self._decode(*entry)) is not None]:
                return taken
            if entries:
                after = entries[-1][0]
                continue
            if (left := deadline - time.monotonic()) <= 0:
                self._check_generation()
                return []
            block_ms = max(1, int(1000 * min(left, _BLOCK_SECONDS)))
            self.store.call("waiting", [self._learner_waits], ["empty", block_ms])

    def sampled(self, steps: int) -> None:
        """Tell the limiter that `steps` were trained on, or dropped."""
        self._fenced_call("sampled", [self._state], [self._attempt, steps])

    def published(self, policy: str, version: int) -> None:
        """Tell the staleness rule which version of a policy is the newest that actors can have."""
        self._fenced_call(
            "published", [self._state, self._versions], [self._attempt, policy, version]
        )

    def acknowledge(self, upto: str) -> int:
        """Forget all entries up to and including `upto`; returns how many those were.

        Call it only when a durable checkpoint contains their effect.
        """
        keys = [self._state, self._log, self._sizes]
        return self._fenced_call("acknowledge", keys, [self._attempt, _following(upto)])

    def restore(
        self, *, samples: int, versions: Mapping[str, int], attempt: int, position: str = START
    ) -> None:
        """Start or go on from a checkpoint: make the counters agree with it and with the log.

        Entries up to `position` are in the checkpoint and are forgotten; what is behind it waits to
        be taken, again or for the first time. Earlier attempts are shut out from now on. The limits
        are set again if this object had set them.

        Raises:
            StoreError: a later attempt has begun: this one is over.
        """
        if self.store.generation() is None:
            self.store.renew()
        self._generation = self.store.generation()
        self._attempt = attempt
        keys = [self._state, self._versions, self._log, self._sizes]
        newest: Iterable[Argument] = (part for pair in versions.items() for part in pair)
        self._fenced_call("restore", keys, [attempt, _following(position), samples, *newest])
        if self._limits:
            self.configure(self._limits)

    # How it is done.

    def _reserve(self, token: str, blocks: Sequence[Episodes]) -> list[str]:
        """Ask for room for blocks; a verdict for each."""
        attempt = min(block.attempt for block in blocks)
        arguments: list[Argument] = [token, attempt, _LEASE_MS]
        for block in blocks:
            arguments += [block.steps, block.nbytes, block.policy, block.oldest]
        keys = [self._state, self._versions, self._reservations, self._actors_wait]
        return [verdict.decode() for verdict in self.store.call("reserve", keys, arguments)]

    def _append(self, token: str, blocks: Sequence[Episodes], receipt: Receipt | None) -> str:
        """Append blocks that have room, all or none; `ok`, or why none was."""
        with self.store.guard():
            try:
                done = transact(self.store.once, self._additions(token, blocks, receipt))[-1]
                return done.decode() if isinstance(done, bytes) else "ok" if done else "again"
            except redis.OutOfMemoryError:
                self._withdraw(token)
                return "memory"
            except (redis.ConnectionError, redis.TimeoutError):
                if receipt is not None:
                    return "ok" if receipt.done(self._reservations, token) else "again"
                # The transaction was done, or it was not and never will be.
                return "again" if self._withdraw(token) else "ok"

    def _withdraw(self, token: str) -> bool:
        """Give a reservation back; false if there is none, because it was used."""
        return bool(self.store.call("withdraw", [self._reservations], [token]))

    def _additions(
        self, token: str, blocks: Iterable[Episodes], receipt: Receipt | None
    ) -> Iterator[list[Part]]:
        """The commands that add blocks and turn their reservation into counters."""
        sizes = []
        for block in blocks:
            payload, steps = encode(block), b"%d" % block.steps
            sizes.append(b"%d %d" % (block.steps, len(payload)))
            yield [b"XADD", self._log.encode(), b"*", b"block", payload, b"steps", steps]
        names = (self._state, self._reservations, self._sizes, self._log)
        if receipt is not None:
            yield receipt.command(names, token, sizes[0])
            return
        yield [b"FCALL", function("commit").encode(), b"4", *(n.encode() for n in names),
               token.encode(), *sizes]  # fmt: skip

    def _explain(self, reason: str, block: Episodes) -> None:
        """Say what a block waits for, and see that it does not wait for what cannot come."""
        if reason == self._waits_because:
            return
        with self.store.guard():
            at = _numbers(self.store.redis.hgetall(self._state))
        rate = RateLimit(samples_per_insert=at["samples_per_insert"], max_diff=at["max_diff"])
        if reason == "capacity" and not may_insert(rate, Counters(0, 0, 0), block.steps):
            raise UserError(
                f"store.capacity: a block of {block.steps:,} steps does not fit in {at['max_diff']:,.0f}; "
                "raise it, or make actors.block_steps smaller"
            )
        if reason == "retained" and block.nbytes > at["max_bytes"]:
            raise UserError(
                f"store.memory_mb: a block of {block.nbytes:,} bytes does not fit in the {at['max_bytes']:,.0f} "
                "bytes that may be kept; raise it, or make actors.block_steps smaller"
            )
        self._waits_because, self.waiting_for = reason, _words(reason, at)

    def _read(self, after: str, count: int, block_ms: int) -> list[tuple[str, dict[bytes, bytes]]]:
        with self.store.guard():
            reply = self.store.redis.xread({self._log: after}, count, block_ms or None)
        # The client's types cover more protocols and options than the one reply we ask for.
        streams = cast("list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]", reply)
        return [(id_.decode(), fields) for _, entries in streams for id_, fields in entries]

    def _decode(self, id_: str, fields: Mapping[bytes, bytes]) -> Taken | None:
        payload = fields.get(b"block", b"")
        try:
            return Taken(id_, decode(payload), len(payload))
        except CodecError:
            if id_ not in self._damaged_ids:
                self._damaged_ids.add(id_)
                self.damaged += 1
                self.sampled(int(fields.get(b"steps", b"0")))
            return None

    def _check_generation(self) -> None:
        if self.store.generation() != self._generation:
            raise StoreEmptiedError(
                f"store at {self.store.where}: it was restarted and lost its memory"
            )

    def _fenced_call(self, function: str, keys: list[str], arguments: list[Argument]) -> int:
        result = int(self.store.call(function, keys, arguments))
        if result < 0:
            raise StoreError(
                f"store at {self.store.where}: run {self.store.run} was started again since: "
                f"attempt {self._attempt} is over"
            )
        return result


_OUTCOMES = {
    "ok": Outcome.PUSHED,
    "stale": Outcome.STALE,
    "fenced": Outcome.FENCED,
    "lost": Outcome.LOST,
}


def _numbers(fields: Mapping[bytes | str, bytes | str]) -> defaultdict[str, float]:
    return defaultdict(float, {text(name): float(value) for name, value in fields.items()})


def _words(reason: str, at: Mapping[str, float]) -> str:
    """Why actors wait, for people."""
    match reason:
        case "capacity":
            queued = at["inserts"] * at["samples_per_insert"] - at["samples"]
            return (
                f"actors wait for the learner: {queued:,.0f} of {at['max_diff']:,.0f} steps queued"
            )
        case "retained":
            kept, limit = at["retained_bytes"] / 1e6, at["max_bytes"] / 1e6
            return f"actors wait, learner must checkpoint: {kept:,.1f} of {limit:,.1f} MB kept until it does"
        case "limits":
            return "actors wait for the learner: it has not started"
        case "memory":
            return "actors wait for the store: its memory is full"
        case _:
            return ""


def _following(id_: str) -> str:
    """The smallest id behind an entry's."""
    milliseconds, sequence = id_.split("-")
    return f"{milliseconds}-{int(sequence) + 1}"
