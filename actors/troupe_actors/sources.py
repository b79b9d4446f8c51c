"""What an actor plays: a game on many tables, or environments side by side; for ever, or in turns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from troupe import seeding
from troupe.episodes import Array, Episodes
from troupe.jobs.roles import AGENT
from troupe.jobs.spec import Job
from troupe.policies import Acting, Spaces, create_acting
from troupe.policies.devices import resolve_device, resolve_precision
from troupe_actors import environments, games
from troupe_actors.environments import Seeds
from troupe_actors.opponents import SETTLED, Bench, Company, Opponents, Selves
from troupe_actors.recorder import Author
from troupe_actors.rollout import EnvironmentLoop, Rollout
from troupe_actors.selfplay import Exploration, Player, Round, run_loop
from troupe_actors.tape import Tape

ROLE = "actor"


class Score(NamedTuple):
    """Episodes of one policy that ended."""

    policy: str
    returns: Array
    """[K]: sums of their rewards, undiscounted."""
    lengths: Array
    """[K]: their steps."""


@dataclass(frozen=True, slots=True)
class Played:
    """What came of playing for a while."""

    blocks: Sequence[Episodes]
    decisions: int
    """Actions, those that nobody had to choose included."""
    forced: int = 0
    episodes: int = 0
    """Those that ended."""
    scores: Sequence[Score] = field(default_factory=tuple)
    restarts: int = 0
    """How often an environment failed and was made anew."""
    resume: bytes = b""
    """In turns, what `Source.resume` needs to go on behind this one."""


class Source(Protocol):
    """Where an actor's experience comes from. Weights are loaded into its players between two looks."""

    @property
    def players(self) -> Sequence[Player]:
        """Who plays."""
        ...

    def stream(self, *names: int | str) -> Iterator[Played]:
        """Play for ever, from random streams of these names."""
        ...

    def resume(self, state: bytes) -> None:
        """Take up turns where `state` says; the empty one is the beginning."""
        ...

    def turn(self, number: int) -> Played:
        """Play one turn: one block of every policy, without gaps from `resume` on."""
        ...

    def close(self) -> None:
        """Let go of what it plays."""
        ...


def create(job: Job, slot: int, author: Author, bench: Bench | None = None) -> Source:
    """What the actor in this slot of a job plays; opponents, where the job has any, come from `bench`.

    Raises:
        UserError: it is not to be had, or its policies do not fit it.
        EnvironmentFaultError: an environment cannot be made, again and again.
    """
    if job.environment is not None:
        return EnvironmentSource(job, slot, author)
    return GameSource(job, slot, author, bench)


class EnvironmentSource:
    """The environments of a job."""

    def __init__(self, job: Job, slot: int, author: Author) -> None:
        """See `create`."""
        assert job.environment is not None
        settings = job.actors
        named = job.environment
        self._job, self._slot = job, slot
        self._driver = environments.create(named.name, named.options, settings.environments)
        spaces = self._driver.spaces
        acting = make_acting(job, spaces)
        player = Player(job.policies.get(AGENT, AGENT), (0,), spaces, acting)
        self.players = [player]
        self._loop = EnvironmentLoop(self._driver, player, settings.rollout, author)
        self._exploration = exploration_of(job)
        self._tape: Tape | None = None
        self._restarts = 0

    def stream(self, *names: int | str) -> Iterator[Played]:
        seed = seeding.key(self._job.seed, *names, "episodes")
        random = seeding.stream(self._job.seed, *names, "actions")
        self._loop.begin(self._driver.reset(Seeds(seed, ROLE, self._slot)))
        while True:
            yield self._play(random)

    def resume(self, state: bytes) -> None:
        seeds = Seeds(self._job.seed, ROLE, self._slot)
        self._tape = Tape(self._driver)
        if state:
            self._loop.standing = self._tape.read(state, seeds)
        else:
            self._loop.begin(self._tape.begin(seeds))

    def turn(self, number: int) -> Played:
        assert self._tape is not None
        played = self._play(seeding.stream(self._job.seed, ROLE, self._slot, "turn", number))
        (block,) = played.blocks
        self._tape.add(block)
        resume = self._tape.write(self._loop.standing)
        turned = replace(block, turn=number, resume=resume)
        return replace(played, blocks=[turned], resume=resume)

    def close(self) -> None:
        self._driver.close()

    def _play(self, random: np.random.Generator) -> Played:
        (player,) = self.players
        rollout = self._loop.play(random, self._exploration(player.version))
        restarts, self._restarts = self._driver.restarts - self._restarts, self._driver.restarts
        return _played(rollout, player.policy, restarts)


class GameSource:
    """The tables of a job's game."""

    def __init__(self, job: Job, slot: int, author: Author, bench: Bench | None = None) -> None:
        """See `create`."""
        assert job.game is not None
        self._job, self._slot, self._author = job, slot, author
        self._game = games.load(job.game.name, job.game.rules)
        self.players = make_players(job, self._game)
        self._company = _company(job, self._game, self.players, bench)

    def stream(self, *names: int | str) -> Iterator[Played]:
        seed = self._job.seed
        deals, moves = seeding.key(seed, *names, "deals"), seeding.stream(seed, *names, "moves")
        with self._tables(deals) as tables:
            self._company.begin(seeding.stream(seed, *names, "opponents"))
            before = _Count(0, 0, 0)
            for played in self._rounds(tables, moves, block_steps=self._job.actors.block_steps):
                self._company.take(played)
                now = _Count.of(tables)
                yield self._told(_summed([played], now.since(before)))
                before = now

    def resume(self, state: bytes) -> None:
        """Nothing of a game crosses turns."""

    def turn(self, number: int) -> Played:
        seed, names = self._job.seed, (ROLE, self._slot, "turn", number)
        deals, moves = seeding.key(seed, *names, "deals"), seeding.stream(seed, *names, "moves")
        with self._tables(deals) as tables:
            self._company.begin(seeding.stream(seed, *names, "opponents"))
            rounds: list[Round] = []
            for one in self._rounds(tables, moves, games_each=self._job.actors.games):
                self._company.take(one)
                rounds.append(one)
            played = self._told(_summed(rounds, _Count.of(tables)))
        return replace(played, blocks=[replace(block, turn=number) for block in played.blocks])

    def close(self) -> None:
        pass

    @contextmanager
    def _tables(self, deals: int) -> Iterator[games.Tables]:
        """Tables with deals of their own."""
        tables = self._game.tables(self._job.actors.tables, deals)
        try:
            yield tables
        finally:
            if isinstance(tables, games.ForeignTables):
                tables.close()

    def _rounds(
        self,
        tables: games.Tables,
        random: np.random.Generator,
        block_steps: int | None = None,
        games_each: int | None = None,
    ) -> Iterator[Round]:
        return run_loop(
            tables,
            self._company.players,
            random,
            exploration=exploration_of(self._job),
            author=self._author,
            block_steps=block_steps,
            seating=self._company.seating,
            games=games_each,
        )

    def _told(self, played: Played) -> Played:
        """What came of games against opponents goes along with the next block of the policy."""
        blocks = [
            replace(block, resume=self._company.tell(block.policy)) for block in played.blocks
        ]
        return replace(played, blocks=blocks)


def _company(
    job: Job, game: games.Game, learning: Sequence[Player], bench: Bench | None
) -> Company:
    if job.opponents is None or bench is None:
        return Selves(learning, job.actors.tables)
    chairs = [
        [replace(one, frozen=True, version=SETTLED) for one in make_players(job, game)]
        for _ in range(job.opponents.at_once)
    ]
    return Opponents(job.opponents, learning, chairs, job.actors.tables, bench)


class _Count(NamedTuple):
    """What tables have counted so far."""

    decisions: int
    forced: int
    restarts: int

    @classmethod
    def of(cls, tables: games.Tables) -> "_Count":
        restarts = tables.restarts if isinstance(tables, games.ForeignTables) else 0
        return cls(tables.decisions, tables.forced, restarts)

    def since(self, before: "_Count") -> "_Count":
        return _Count(*(now - then for now, then in zip(self, before, strict=True)))


def make_players(job: Job, game: games.Game) -> list[Player]:
    """Every policy of the job, with the seats that it plays; weights are still to be loaded."""
    seats: dict[str, list[int]] = {}
    for index, seat in enumerate(game.seats):
        seats.setdefault(job.policies.get(seat, seat), []).append(index)
    return [
        Player(policy, tuple(own), spaces := game.spaces(own[0]), make_acting(job, spaces))
        for policy, own in seats.items()
    ]


def make_acting(job: Job, spaces: Spaces) -> Acting:
    """A policy of the job to act with, in its actors' precision."""
    device = resolve_device(job.actors.device, prefer_gpu=False)
    precision = job.actors.precision
    if precision == "auto" and job.network.kind != "action_value":
        precision = "fp32"  # what is gained at their sizes is less than what rounding costs
    return create_acting(spaces, job.network, device, resolve_precision(precision, device))


def exploration_of(job: Job) -> Exploration:
    """How much the job's actors explore at each version of a policy."""
    settings = job.actors
    return Exploration(settings.exploration, settings.exploration_start, settings.exploration_decay)


def _played(rollout: Rollout, policy: str, restarts: int) -> Played:
    block = rollout.block
    scores = [Score(policy, rollout.returns, rollout.lengths)] if len(rollout.returns) else []
    return Played(
        [block], block.steps, episodes=len(rollout.returns), scores=scores, restarts=restarts
    )


def _summed(rounds: Sequence[Round], count: _Count) -> Played:
    blocks = [block for played in rounds for block in played.blocks]
    episodes = sum(len(played.finished) for played in rounds)
    scores = [_score(block) for block in blocks if block.fragments]
    return Played(blocks, count.decisions, count.forced, episodes, scores, count.restarts)


def _score(block: Episodes) -> Score:
    """Of fragments that are whole games."""
    starts = np.cumsum(block.length) - block.length
    return Score(block.policy, np.add.reduceat(block.reward, starts), block.length)
