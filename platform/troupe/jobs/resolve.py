"""From job data, where most keys are left out, to a job that is known to be sound."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from troupe.config import dump, parse
from troupe.errors import UserError
from troupe.jobs import prepare
from troupe.jobs.roles import game_of, policies_of, seats_of, title
from troupe.jobs.spec import Job, OpponentSettings
from troupe.league import named
from troupe.plugins import find, names
from troupe.policies import Spaces

UNBOUNDED = 2**40
"""Steps; more than memory holds."""

_LEARNERS = "troupe_learners"


def resolve(data: Mapping[str, object], *, here: bool = True) -> Job:
    """The job with every default of its parts filled in.

    `here`: it is to run on this machine, whose devices must do for it.

    What the data leave out is as the job's algorithm says, else as `Job` says. A resolved job,
    dumped, resolves to itself.

    Raises:
        UserError: one line for the first thing that would not run: names must exist and keys must
            fit each other, which no single key can tell.
    """
    job = parse(Job, data)
    _check_kind(job)
    _check_schedule(job)
    seats = _policies_by_seat(job)
    spaces = policies_of(job)
    chosen = _choose(job.algorithm)
    below: Mapping[str, object] = {}
    for seen in spaces.values():  # each of them, to see that the algorithm fits it
        below = merged(chosen.module.defaults(chosen.settings, seen), below)
    job = _tempered(parse(Job, merged(below, data)))
    if job.game is not None:
        job = replace(job, game=replace(job.game, rules=dump(game_of(job.game).rules)))
    if job.prepare is not None:
        job = replace(job, prepare=prepare.resolve(job.prepare))
    _check_sharding(job)
    _check_ranks(job, chosen.module.Algorithm(chosen.settings).plan)
    if here:
        _check_devices(job)
    return replace(
        job,
        algorithm={"name": chosen.name, **dump(chosen.settings)},
        policies=seats,
        evaluation=replace(job.evaluation, against=_opponents(job)),
        opponents=_pool(replace(job, policies=seats)),
        store=replace(job.store, capacity=_capacity(job, len(spaces), chosen)),
    )


def merged(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """Nested data in which `above` holds, key by key, and `below` fills in."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            result[key] = merged(under, value)
        else:
            result[key] = value
    return result


def _check_kind(job: Job) -> None:
    kinds = {"game": job.game, "environment": job.environment, "text": job.text}
    there = [name for name, settings in kinds.items() if settings is not None]
    if len(there) != 1:
        told = " and ".join(there) + " are there" if there else "none of them is there"
        raise UserError(f"{', '.join(kinds)}: {told}; a job has exactly one of the three")
    what = "an environment" if job.environment is not None else "text"
    if job.game is None and job.evaluation.against:
        raise UserError(
            f"evaluation.against: {', '.join(job.evaluation.against)}: {what} has no "
            "opponents; leave the key out"
        )
    if job.game is None and job.opponents is not None:
        raise UserError(f"opponents: {what} has none; leave the key out")
    if job.text is not None and job.actors.colocated:
        raise UserError("actors.colocated: true is for games and environments; leave it out")


def _check_schedule(job: Job) -> None:
    if job.lag and job.schedule != "lockstep":
        raise UserError(
            f"lag: {job.lag} needs schedule: lockstep; async is bounded by max_staleness"
        )
    if job.actors.colocated and job.schedule != "lockstep":
        raise UserError(
            "actors.colocated: true needs schedule: lockstep; else actors play while the learner "
            "learns, in processes of their own"
        )
    if job.actors.colocated and job.opponents is not None:
        raise UserError(
            "actors.colocated: true has no opponents, whose weights actors of their own fetch; leave "
            "one of the two out"
        )


def _tempered(job: Job) -> Job:
    """Of text, the job whose learner reckons with the temperature that its actors sample with."""
    if job.text is None:
        return job
    if job.network.kind != "language":
        raise UserError(f"network.kind: {job.network.kind}: what learns text is a `language` model")
    if job.network.language is None or not job.network.language.model:
        raise UserError("network.language.model: missing; the folder of the model that is to learn")
    language = replace(job.network.language, temperature=job.text.temperature or 1.0)
    return replace(
        job,
        network=replace(job.network, language=language),
        evaluation=replace(
            job.evaluation, every=job.evaluation.every if job.evaluation.prompts else 0.0
        ),
    )


def _policies_by_seat(job: Job) -> dict[str, str]:
    seats = seats_of(job)
    unknown = [seat for seat in job.policies if seat not in seats]
    if unknown:
        raise UserError(
            f"policies.{unknown[0]}: {title(job)} has no such seat; it has {', '.join(seats)}"
        )
    return {seat: job.policies.get(seat, seat) for seat in seats}


class _Plan(Protocol):
    batch: int | None
    whole: bool
    replay: object | None


class _Algorithm(Protocol):
    plan: _Plan


class _Module(Protocol):
    Config: type
    Algorithm: Callable[[object], _Algorithm]

    def defaults(self, settings: object, spaces: Spaces) -> Mapping[str, object]: ...


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A job's algorithm."""

    name: str
    module: _Module
    settings: object


def _choose(data: Mapping[str, object]) -> _Chosen:
    options = dict(data)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError("algorithm.name: missing; an algorithm such as ppo")
    module = find(_LEARNERS, name, "algorithm.name", _algorithms)
    lacks = [part for part in ("Config", "Algorithm", "defaults") if not hasattr(module, part)]
    if lacks:
        raise UserError(f"algorithm.name: {name!r} is no algorithm: it has no {lacks[0]}")
    return _Chosen(name, module, parse(module.Config, options, "algorithm"))


def _algorithms() -> list[str]:
    """The names of those files that are algorithms."""
    modules = {name: importlib.import_module(f"{_LEARNERS}.{name}") for name in names(_LEARNERS)}
    return [name for name, module in modules.items() if hasattr(module, "defaults")]


def _capacity(job: Job, policies: int, chosen: _Chosen) -> int:
    """Room in which every policy can collect a batch while every actor brings a block.

    In lockstep nothing has to wait for room: no actor is more than `lag` turns ahead. Nor of text:
    prompts are given out for as many as may be under way.
    """
    if job.schedule == "lockstep" or job.text is not None:
        return UNBOUNDED
    actors = job.actors
    block = actors.block_steps if job.environment is None else actors.environments * actors.rollout
    turn = actors.count * block
    plan = chosen.module.Algorithm(chosen.settings).plan
    ranks = job.learner.count
    batch = -(-plan.batch // ranks) * ranks if plan.batch else turn
    needed = policies * batch + turn
    if policies > 1 and ranks > 1:  # one may have more of a policy than the others have
        needed *= 2
    if not job.store.capacity:
        return needed if plan.whole else 2 * needed
    if job.store.capacity < needed:
        raise UserError(
            f"store.capacity: {job.store.capacity} is too small: {policies} policies collect {batch} "
            f"steps each while {actors.count} actors bring {block} at a time; make it {needed} or "
            "more, or leave it out"
        )
    return job.store.capacity


def _opponents(job: Job) -> tuple[str, ...]:
    """Who the job is judged against: those it names, else those that its game has."""
    if job.game is None:
        return ()
    assert job.game is not None
    agents = importlib.import_module("troupe_actors.agents")
    chosen: Sequence[str] = job.evaluation.against or agents.usual(job.game.name)
    for opponent in chosen:
        agents.check(opponent, job, "evaluation.against")
    return tuple(chosen)


def _pool(job: Job) -> OpponentSettings | None:
    """What the job says of its pool, named opponents by the checkpoints that they stand for."""
    if job.opponents is None:
        return None
    if len(job.policies) < 2:
        raise UserError(f"opponents: {title(job)} has one seat, and nobody to play against")
    return replace(job.opponents, named=named.find(job))


def _check_devices(job: Job) -> None:
    devices = importlib.import_module("troupe.policies.devices")  # imports torch: only when asked
    for key, device, precision in (
        ("learner", job.learner.device, job.learner.precision),
        ("actors", job.actors.device, job.actors.precision),
    ):
        devices.check(device, precision, key)
    if job.learner.count > 1:
        devices.check_ranks(job.learner.device, job.learner.count)


def _check_sharding(job: Job) -> None:
    """A language model alone is divided, among several ranks, in a precision that needs no scaling."""
    if job.learner.sharding == "none":
        return
    if job.network.kind != "language":
        raise UserError(
            f"learner.sharding: {job.learner.sharding} divides language models, and network.kind is "
            f"{job.network.kind}; leave it out: such a network fits into every rank"
        )
    if job.learner.count == 1:
        raise UserError(
            f"learner.sharding: {job.learner.sharding} divides a model among ranks, and "
            "learner.count is 1; make that 2 or more, or leave sharding out"
        )
    devices = importlib.import_module("troupe.policies.devices")
    devices.check_sharding(job.learner.precision)


def _check_ranks(job: Job, plan: _Plan) -> None:
    """Several ranks of the learner deal out the actors among them."""
    ranks, actors = job.learner.count, job.actors.count
    if ranks == 1:
        return
    if actors < ranks:
        raise UserError(
            f"learner.count: {ranks}, each rank learns from actors of its own, and actors.count is "
            f"{actors}; raise that to {ranks} or more"
        )
    if job.text is not None and job.text.groups < ranks:
        raise UserError(
            f"text.groups: {job.text.groups} in an update, and each of {ranks} ranks (learner.count) "
            f"learns from groups of its own; make it {ranks} or more"
        )
    if plan.replay is None and actors % ranks:
        raise UserError(
            f"learner.count: {ranks} ranks do not share actors.count: {actors} evenly, and without "
            "replay the one with the most would be waited for in every turn; make actors.count a "
            f"multiple of {ranks}"
        )
