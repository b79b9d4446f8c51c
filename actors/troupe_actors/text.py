"""An actor of text: leases prompts, has an engine complete them, judges the groups, and commits them."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from troupe import seeding
from troupe.jobs.roles import AGENT, imitates
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.jobs.spec import TextSettings
from troupe.language.models import open_folder
from troupe.prompts.order import of_slot, share_of
from troupe.prompts.supply import Supply
from troupe.samples import SampleTable
from troupe.store.leases import Holder, Lease, Leases, Wait
from troupe.store.lockstep import Place, Places
from troupe.store.replay import Outcome
from troupe.weights.client import Weights
from troupe_actors import completions, engines
from troupe_actors.alike import Spare, different
from troupe_actors.completions import Answered
from troupe_actors.demonstrations import demonstrate
from troupe_actors.engines import Completion, Request
from troupe_actors.following import Following
from troupe_actors.recorder import Author
from troupe_actors.rewards import Sample
from troupe_actors.sampling import engine_settings, sampling_of
from troupe_actors.scoring import Rewards, Scored
from troupe_actors.sources import Played, Score
from troupe_actors.tally import Tally
from troupe_actors.worker import first_turn

log = logging.getLogger("troupe.actor")

SAMPLES = "samples.jsonl"
_IDLE_SECONDS = 0.005
_ALIKE = "all rewards alike"
_FAILED = "rewards failed"


@dataclass(slots=True)
class _Group:
    """A prompt that is being answered."""

    lease: Lease
    answered: Answered
    done: list[Completion] = field(default_factory=list)


@dataclass(slots=True)
class _Judged:
    """A prompt that is answered, and what its completions are worth, in good time."""

    lease: Lease
    answered: Answered
    samples: Sequence[Sample]
    verdict: "Future[Scored]"


class TextSession:
    """One life of an actor of text."""

    def __init__(self, setting: WorkerSetting, ends: Connections, text: TextSettings) -> None:
        self._job, self._text, self._ends = ends.job, text, ends
        self._slot = setting.slot
        self._share = share_of(setting.slot, ends.job.actors.count, text.groups)
        """Groups of a batch."""
        self._spare = Spare(self._share, text.refills)
        self._imitates = imitates(ends.job)
        self._stop, self._metrics = ends.reporter.stop, ends.metrics
        self._policy = ends.job.policies.get(AGENT, AGENT)
        assert ends.job.network.language is not None
        self._folder = open_folder(ends.job.network.language.model, "network.language.model")
        self._engine = engines.create(self._folder, engine_settings(ends.job, text), "text.engine")
        self._sampling = sampling_of(text, self._folder)
        self._author = Author(setting.name, ends.incarnation, ends.attempt)
        holder = Holder(setting.name, ends.attempt, self._policy)
        self._leases = Leases(ends.store, ends.replay, holder)
        self._supply = Supply(self._leases, self._text.prompts.timeout)
        self._following = Following(ends, {self._policy: self._take})
        self._table = SampleTable(setting.run_folder / SAMPLES, attempt=ends.attempt)
        self._tally = Tally(ends.metrics)
        self._groups: dict[int, _Group] = {}
        """By ticket: what the engine works on."""
        self._requests: dict[int, int] = {}
        """By request: its ticket."""
        self._judged: list[_Judged] = []
        """In the order in which they were answered."""
        self._next = 0

    def run(self) -> None:
        """See `Actor.run`.

        Raises:
            RewardFaultError: a reward fails too often.
        """
        with ExitStack() as stack:
            stack.callback(self._following.close)
            self._rewards: Callable[[Sequence[Sample]], Scored] = _nothing
            if not self._imitates:
                self._rewards = stack.enter_context(Rewards(self._text.rewards))
            # Beside the engine: a reward that hangs must not keep it from giving signs of life.
            self._judge = ThreadPoolExecutor(1, "rewards")
            stack.callback(self._judge.shutdown, wait=False, cancel_futures=True)
            if self._job.schedule == "lockstep":
                self._run_turns()
            else:
                self._run_freely()

    # Schedule async: with the newest weights there are.

    def _run_freely(self) -> None:
        if not self._following.first():
            return
        self._leases.begin()
        supply = self._supply  # not in lockstep, where prompts follow from the turn
        while not self._stop.is_set():
            self._following.refresh()
            given = supply.more(self._room(), self._following.versions[self._policy])
            self._give_up([lease for lease in given if lease.ticket in self._under_way()])
            self._begin(given)
            self._give_up(supply.lost())
            self._metrics.set("waiting_for", "" if self._engine.pending else supply.waiting_for)
            if self._engine.pending:
                self._step()
            elif self._stop.wait(_IDLE_SECONDS):
                break
            for judged in self._ready():
                supply.finish([judged.lease])
                if not self._commit_one(judged):
                    return
        self._leases.release([*supply.held.values()])

    def _room(self) -> int:
        """How many prompts more keep the engine busy."""
        free = self._text.engine.slots - self._engine.pending
        return max(free // self._text.completions, 0 if self._engine.pending else 1)

    def _under_way(self) -> set[int]:
        """Tickets that are being answered or judged; who is given one again had lost it meanwhile."""
        return {*self._groups, *(judged.lease.ticket for judged in self._judged)}

    def _give_up(self, lost: Sequence[Lease]) -> None:
        """Forget prompts that were given to somebody else, or to us once more."""
        gone = {lease.ticket for lease in lost}
        if not gone:
            return
        self._metrics.add("lost_leases", len(gone))
        self._engine.cancel([one for one, ticket in self._requests.items() if ticket in gone])
        self._requests = {o: t for o, t in self._requests.items() if t not in gone}
        self._groups = {t: group for t, group in self._groups.items() if t not in gone}
        self._judged = [judged for judged in self._judged if judged.lease.ticket not in gone]

    def _ready(self) -> list[_Judged]:
        """The groups whose rewards are known."""
        done = [judged.verdict.done() for judged in self._judged]  # asked once: it may change
        ready = [judged for judged, one in zip(self._judged, done, strict=True) if one]
        self._judged = [judged for judged, one in zip(self._judged, done, strict=True) if not one]
        return ready

    def _commit_one(self, judged: _Judged) -> bool:
        kept, scored = self._sound([judged], [judged.verdict.result()])
        if not kept:
            return True
        self._spare.keep()
        return self._commit([judged.lease], kept, scored)

    # Schedule lockstep: turn t with exactly version t - lag, and prompts that follow from t.

    def _run_turns(self) -> None:
        places = Places(self._ends.store)
        first = first_turn(places, self._ends)
        if first is None:
            return
        place = places.get(self._slot) or Place(first, b"")
        while not self._stop.is_set():
            if not self._following.exactly(max(0, place.turn - self._job.lag)):
                return
            after = self._play(place)
            if after is None:
                return
            places.put(self._slot, place := after)

    def _play(self, place: Place) -> Place | None:
        """Bring a turn's groups as one block; where the next turn goes on, none if it is time to end.

        Groups that are left out are made up for by the prompts that come next. Which those are
        follows from what is said and judged, so an actor that lived before does all of it again,
        also what its earlier life had closed.
        """
        start = position = int(place.state or place.turn * self._share)
        most = self._share * (1 + self._text.refills * self._text.drop_alike)
        kept: list[tuple[Lease, Answered]] = []
        verdicts: list[Scored] = []
        self._spare.renew()
        while missing := min(self._share - len(kept), start + most - position):
            leases = self._lease(position, missing)
            judged = None if leases is None else self._answer(leases)
            if leases is None or judged is None:
                return None
            position += len(leases)
            good, scored = self._sound(judged, [one.verdict.result() for one in judged])
            by_ticket = {one.lease.ticket: one.lease for one in judged}
            kept += [(by_ticket[one.group], one) for one in good]
            verdicts.append(scored)
            if not leases:
                break
        after = Place(place.turn + 1, str(position).encode())
        held, answered = [lease for lease, _ in kept], [one for _, one in kept]
        done = self._commit(held, answered, _joined(verdicts), place.turn, after.state)
        return after if done else None

    def _lease(self, position: int, count: int) -> list[Lease] | None:
        """The next prompts of this actor, fewer where there are no more; none if it is time to end."""
        follow = of_slot(self._slot, self._job.actors.count, self._text.groups, position)
        tickets = list(islice(follow, count))
        while isinstance(given := self._leases.lease_these(tickets), Wait):
            self._metrics.set("waiting_for", given.reason)
            if given.over or self._stop.wait(_IDLE_SECONDS):
                return None
        return given

    def _answer(self, leases: Sequence[Lease]) -> list[_Judged] | None:
        """Have these prompts answered and judged, by ticket; none if it is time to end."""
        self._begin(leases)
        while self._engine.pending:
            self._step()
            if self._stop.is_set():
                return None
        judged = sorted(self._judged, key=lambda one: one.lease.ticket)
        self._judged.clear()
        return judged

    # Both.

    def _take(self, weights: Weights) -> None:
        self._engine.load(weights.version, weights.tensors, weights.bfloat16)

    def _begin(self, leases: Sequence[Lease]) -> None:
        """Have the engine complete these prompts."""
        for lease in leases:
            tokens = self._folder.encode(lease.prompt.prompt)
            most = self._text.engine.max_length
            if not 0 < len(tokens) < most:
                self._leases.bury([lease], f"{len(tokens)} tokens, of fewer than {most}")
                self._supply.finish([lease])
                continue
            written = lease.prompt.prompt
            text = written if isinstance(written, str) else self._folder.decode(tokens)
            answered = Answered(
                lease.ticket, tokens, text, (), lease.prompt.answer, lease.prompt.row
            )
            if self._imitates:
                version = self._following.versions[self._policy]
                said = demonstrate(lease.prompt, self._folder, version, self._text.max_tokens)
                self._send_to_judge(_Group(lease, answered, [said]))
            else:
                self._groups[lease.ticket] = _Group(lease, answered)
                self._submit(lease.ticket, tokens)

    def _submit(self, ticket: int, tokens: completions.Tokens) -> None:
        requests = []
        for number in range(self._text.completions):
            seed = seeding.key(self._job.seed, "completion", ticket, number)
            requests.append(Request(self._next, tokens, seed, self._sampling, ticket))
            self._requests[self._next] = ticket
            self._next += 1
        self._engine.submit(requests)

    def _step(self) -> None:
        """One token for everybody; groups that this completes go to the rewards."""
        finished = self._engine.step()
        for completion in finished:
            ticket = self._requests.pop(completion.id)
            group = self._groups[ticket]
            group.done.append(completion)
            if len(group.done) == self._text.completions:
                del self._groups[ticket]
                self._send_to_judge(group)

    def _send_to_judge(self, group: _Group) -> None:
        done = sorted(group.done, key=lambda completion: completion.id)
        answered = replace(group.answered, completions=done)
        samples = completions.samples([answered], self._folder.decode)
        verdict = self._judge.submit(self._rewards, samples)
        self._judged.append(_Judged(group.lease, answered, samples, verdict))

    def _sound(
        self, judged: Sequence[_Judged], verdicts: Sequence[Scored]
    ) -> tuple[list[Answered], Scored]:
        """Groups to learn from; the others' prompts are closed. All are counted and shown."""
        scored = _joined(verdicts)
        answered = [one.answered for one in judged]
        self._tell(answered, [s for one in judged for s in one.samples], scored)
        least = 1 if self._imitates else min(2, self._text.completions)
        kept, left = completions.sound(answered, scored, least=least)
        self._drop(judged, {one.group for one in answered} - {one.group for one in kept}, _FAILED)
        if self._text.drop_alike:
            whole = {one.group for one in kept}
            kept, left, alike = different(kept, left, self._spare.spend)
            self._drop(judged, whole - {one.group for one in kept}, _ALIKE)
            self._metrics.add("alike_groups", alike)
        return kept, left

    def _drop(self, judged: Sequence[_Judged], tickets: set[int], reason: str) -> None:
        if tickets:
            self._leases.drop([one.lease for one in judged if one.lease.ticket in tickets], reason)
            self._metrics.add("dropped_groups", len(tickets))

    def _commit(
        self,
        leases: Sequence[Lease],
        kept: Sequence[Answered],
        scored: Scored,
        turn: int = 0,
        resume: bytes = b"",
    ) -> bool:
        """Send a block with its prompts' leases; false if it is time to end."""
        block = completions.pack(
            kept, scored, self._author, policy=self._policy, turn=turn, resume=resume
        )
        push = self._leases.commit(leases, block, self._stop)
        self._metrics.add("blocked_seconds", push.waited)
        match push.outcome:
            case Outcome.PUSHED:
                self._metrics.add("blocks")
                self._metrics.add("steps", block.steps)
            case Outcome.STALE:
                self._metrics.add("stale_blocks")
            case Outcome.LOST:
                self._metrics.add("lost_leases", len(leases))
            case Outcome.FENCED:
                log.warning("a later attempt at this run has begun; this actor ends")
                return False
            case Outcome.STOPPED:
                return False
        return True

    def _tell(
        self, answered: Sequence[Answered], samples: Sequence[Sample], scored: Scored
    ) -> None:
        for name, value in completions.measures(samples, scored).items():
            self._metrics.set(name, value)
        lengths = np.array([sample.tokens for sample in samples], np.int64)
        score = Score(self._policy, scored.total[~scored.failed], lengths[~scored.failed])
        tokens = int(lengths.sum())
        self._metrics.add("tokens", tokens)
        self._metrics.add("completions", len(samples))
        scores = [score] if len(score.returns) else []
        self._tally.add(Played([], tokens, episodes=len(samples), scores=scores))
        self._table.write(completions.entries(answered, samples, scored))


def _nothing(samples: Sequence[Sample]) -> Scored:
    """What nobody judges is worth 0."""
    return Scored(np.zeros(len(samples), np.float32), {}, ("",) * len(samples))


def _joined(parts: Sequence[Scored]) -> Scored:
    """The samples of several groups as one; those of none have no components."""
    parts = [part for part in parts if len(part.total)]
    if not parts:
        return Scored(np.empty(0, np.float32), {}, ())
    return Scored(
        np.concatenate([part.total for part in parts]),
        {
            name: np.concatenate([part.components[name] for part in parts])
            for name in parts[0].components
        },
        tuple(reason for part in parts for reason in part.reasons),
    )
