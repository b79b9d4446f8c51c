"""The prompts of a run as the learner sees them: loaded once, gone on with after a checkpoint."""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from troupe.errors import UserError
from troupe.prompts import Prompt, PromptSettings
from troupe.prompts.source import fingerprint, to_json
from troupe.store import StoreError
from troupe.store.connection import Argument, Store, text
from troupe.store.prompt_progress import PromptProgress
from troupe.store.prompt_state import PromptState, look
from troupe.store.prompt_texts import key, keys

Field = bytes | bytearray | memoryview | str | int | float
"""As the client library has it."""
_BATCH_BYTES = 512 * 1024
_STAGED_SECONDS = 3600


class Rule(NamedTuple):
    """When no more may be begun: what would be too old when its turn to be trained on comes."""

    groups: int
    """Of this shard's, in a batch; 0 in lockstep, where turns are the limit."""
    max_staleness: int
    """Versions that the weights may be behind which a group was begun with."""


class PromptStore:
    """The learner's side; `troupe.store.leases` has the actors'.

    Args:
        store: where the prompts are.
        settings: how they are handed out.
        seed: of their order.
        shards: of the log that answers go to, one for each rank of the learner.
    """

    def __init__(
        self, store: Store, settings: PromptSettings, seed: int, *, shards: int = 1
    ) -> None:
        self.store = store
        self._settings = settings
        self._seed = seed
        self._attempt = 0
        self._sizes = [store.key("replay", shard, "sizes") for shard in range(shards)]
        self._trained = [store.key("prompts", "trained", shard) for shard in range(shards)]
        self._known = PromptProgress()
        self._consumed: set[int] = set()
        """Since `_known` was."""

    def load(
        self, prompts: Sequence[Prompt], attempt: int, progress: PromptProgress | None = None
    ) -> None:
        """Bring the prompts into the store unless they are there, and go on from a checkpoint.

        The first rank does this whenever the learner begins, after the log was restored, and when
        the store came back empty. A loader that dies half-way leaves nothing that counts. What is
        closed in the checkpoint stays closed, and what waits in the log is not answered again; where
        the store is not as that checkpoint has it, all else is open again. Leases of earlier
        attempts are given back.

        Raises:
            UserError: other prompts are in the store, or were when the checkpoint was saved.
            StoreError: a later attempt has begun; or the store is full.
        """
        mark = fingerprint(prompts, self._seed, shuffle=self._settings.shuffle)
        progress = progress or PromptProgress()
        if progress.fingerprint not in ("", mark) or self._bring(prompts, mark) != mark:
            raise UserError(
                f"text.prompts.path: {self._settings.path}: these prompts, or their order, are not those "
                "that the run began with; bring file, settings and seed back, or start a new run"
            )
        self._attempt, self._known = attempt, progress
        self._consumed.clear()
        self._call("prompts_begin", self._sizes, [attempt, json.dumps(progress.dump())])

    def restore(
        self, shard: int, rule: Rule, attempt: int, progress: PromptProgress | None = None
    ) -> None:
        """Let prompts be leased for a shard, from where a checkpoint has it; each rank does, last.

        Raises:
            StoreError: a later attempt has begun.
        """
        self._attempt = attempt
        trained = progress.trained.get(str(shard), ()) if progress else ()
        touched = [self._sizes[shard], self._trained[shard]]
        self._call("prompts_restore", touched, [attempt, shard, *rule, *trained])

    def consumed(self, shard: int, tickets: Iterable[int]) -> None:
        """Tell the staleness rule that groups were trained on, or dropped as too old.

        Call it when the weights that came of them are published: until then they are on the way.

        Raises:
            StoreError: a later attempt has begun.
        """
        told = sorted({int(ticket) for ticket in tickets})
        self._consumed.update(told)
        self._call("prompts_consumed", [self._trained[shard]], [self._attempt, shard, *told])

    def progress(self) -> PromptProgress:
        """What a checkpoint has to keep, at a moment when all ranks have told what they consumed."""
        with self.store.guard():
            pipe = self.store.redis.pipeline(transaction=True)
            for name in ("state", "leases", "deliveries", "dead", "dropped"):
                pipe.hgetall(key(self.store, name))
            pipe.zrange(key(self.store, "returned"), 0, -1)
            for name in (*self._sizes, *self._trained):
                pipe.lrange(name, 0, -1) if name in self._sizes else pipe.smembers(name)
            state, leases, deliveries, dead, dropped, returned, *rest = pipe.execute()
        at, shards = _texts(state), len(self._sizes)
        answered = [{int(t) for size in sizes for t in size.split()[2:]} for sizes in rest[:shards]]
        trained = [{int(ticket) for ticket in told} for told in rest[shards:]]
        self._forget(trained, answered)
        trained = [told & there for told, there in zip(trained, answered, strict=True)]
        waiting = set().union(*answered) - set().union(*trained)
        self._known = PromptProgress(
            fingerprint=at.get("fingerprint", ""),
            cursor=int(at.get("cursor", 0)),
            open=tuple(sorted({*map(int, leases), *map(int, returned), *waiting})),
            done=int(at.get("done", 0)) - len(waiting),
            trained={str(shard): tuple(sorted(told)) for shard, told in enumerate(trained)},
            deliveries=_texts(deliveries),
            dead=_texts(dead),
            dropped={reason: int(count) for reason, count in _texts(dropped).items()},
        )
        self._consumed.clear()
        return self._known

    def now(self) -> PromptProgress:
        """How this learner stands, without asking a store that has lost its memory.

        Of other ranks it knows what they had consumed when `progress` was last asked for.
        """
        return self._known.after(self._consumed)

    def state(self) -> PromptState:
        """How the prompts stand, for people."""
        return look(self.store)

    # How it is done.

    def _bring(self, prompts: Sequence[Prompt], mark: str) -> str:
        """See that prompts are in the store; the fingerprint of those that are."""
        staged = self.store.key("prompts", "staged", uuid.uuid4().hex)
        with self.store.guard():
            held = self.store.redis.hget(key(self.store, "state"), "fingerprint")
        if held is None:
            self._stage(staged, prompts)
        elif text(held) != mark:
            return text(held)
        settings = self._settings
        total, timeout = len(prompts) * (settings.epochs or 0), int(1000 * settings.timeout)
        known: list[Argument] = [len(prompts), mark, self._seed, int(settings.shuffle)]
        touched = [*keys(self.store), key(self.store, "texts"), staged]
        arguments = [total, timeout, settings.deliveries, *known]
        return text(self.store.call("prompts_loaded", touched, arguments))

    def _stage(self, staged: str, prompts: Sequence[Prompt]) -> None:
        """Write the prompts where nobody looks; they vanish there if nothing comes of it."""
        batch: dict[Field, Field] = {}
        size = 0
        for number, prompt in enumerate(prompts):
            batch[str(prompt.id)] = written = to_json(prompt)
            size += len(written)
            if size >= _BATCH_BYTES or number + 1 == len(prompts):
                with self.store.guard():
                    pipe = self.store.redis.pipeline(transaction=False)
                    pipe.hset(staged, mapping=batch)
                    pipe.expire(staged, _STAGED_SECONDS)
                    pipe.execute()
                batch, size = {}, 0

    def _forget(self, trained: Sequence[set[int]], answered: Sequence[set[int]]) -> None:
        """What the log has forgotten need not be remembered here."""
        with self.store.guard():
            for name, told, there in zip(self._trained, trained, answered, strict=True):
                if gone := told - there:
                    self.store.redis.srem(name, *gone)

    def _call(self, function: str, touched: Sequence[str], arguments: Sequence[Argument]) -> None:
        if int(self.store.call(function, [*keys(self.store), *touched], arguments)) < 0:
            raise StoreError(
                f"store at {self.store.where}: run {self.store.run} was started again since: "
                f"attempt {self._attempt} is over"
            )


def _texts(fields: Mapping[bytes | str, bytes | str]) -> dict[str, str]:
    return {text(name): text(value) for name, value in fields.items()}
