"""How a run stands with its prompts, for people."""

from collections.abc import Mapping
from typing import NamedTuple

from troupe.store.connection import Store, text
from troupe.store.prompt_texts import key


class LeaseState(NamedTuple):
    """A prompt in somebody's hands."""

    ticket: int
    holder: str
    """Who has it, such as `actor-3`."""
    seconds: float
    """For how long."""
    left: float
    """Seconds until it is given to somebody else, unless its holder gives a sign of life."""


class DeadState(NamedTuple):
    """A prompt that was put aside."""

    ticket: int
    deliveries: int
    time: float
    """Unix time."""
    reason: str


class PromptState(NamedTuple):
    """The prompts of a run at one moment. Counts run through all epochs, but for those ready."""

    size: int
    """Prompts; 0 while they are not loaded."""
    epoch: int
    """Counted from 0: that of the next new prompt, or the last."""
    epochs: int
    """0 is without end."""
    ready: int
    """To be given out in this epoch, those that came back included."""
    returned: int
    """Of those: came back without an answer."""
    leased: tuple[LeaseState, ...]
    """The longest first."""
    waiting: int
    """Answered, and not trained on yet."""
    done: int
    """Answered."""
    dropped: Mapping[str, int]
    """By reason: answered, and of no use to the learner."""
    dead: tuple[DeadState, ...]
    """The newest first."""


def look(store: Store) -> PromptState:
    """How the prompts of a run stand now."""
    with store.guard():
        pipe = store.redis.pipeline(transaction=True)
        for name in ("state", "leases", "dead", "dropped"):
            pipe.hgetall(key(store, name))
        pipe.zrange(key(store, "expiry"), 0, -1, withscores=True)
        pipe.zcard(key(store, "returned"))
        pipe.time()
        state, leases, dead, dropped, expiry, returned, (seconds, micros) = pipe.execute()
    now = 1000 * seconds + micros // 1000
    ends = {int(ticket): score for ticket, score in expiry}
    at = {text(name): value for name, value in state.items()}
    size, cursor, total = (int(at.get(name, 0)) for name in ("size", "cursor", "total"))
    epochs = total // size if size else 0
    epoch = _epoch(cursor, size, epochs)
    held = [_lease(int(ticket), text(lease), ends, now) for ticket, lease in leases.items()]
    aside = [_dead(int(ticket), text(note)) for ticket, note in dead.items()]
    return PromptState(
        size=size,
        epoch=epoch,
        epochs=epochs,
        ready=(epoch + 1) * size - cursor + returned,
        returned=returned,
        leased=tuple(sorted(held, key=lambda lease: -lease.seconds)),
        waiting=sum(int(count) for name, count in at.items() if name.startswith("waiting/")),
        done=int(at.get("done", 0)),
        dropped={text(reason): int(count) for reason, count in dropped.items()},
        dead=tuple(sorted(aside, key=lambda one: -one.time)),
    )


def _epoch(cursor: int, size: int, epochs: int) -> int:
    epoch = cursor // size if size else 0
    return min(epoch, epochs - 1) if epochs else epoch


def _lease(ticket: int, lease: str, ends: Mapping[int, float], now: int) -> LeaseState:
    _, _, since, holder = lease.split(" ", 3)
    left = (ends.get(ticket, now) - now) / 1000
    return LeaseState(ticket, holder, (now - int(since)) / 1000, left)


def _dead(ticket: int, note: str) -> DeadState:
    deliveries, time, reason = note.split(" ", 2)
    return DeadState(ticket, int(deliveries), int(time) / 1000, reason)
