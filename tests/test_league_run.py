"""A league at work: actors and the learner of one run in threads, around a real store."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from troupe import checkpoint
from troupe.cli import main
from troupe.episodes import Columns
from troupe.errors import UserError
from troupe.jobs.load import put
from troupe.jobs.resolve import resolve
from troupe.jobs.roles import policies_of
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.jobs.spec import Job, StopSettings
from troupe.league import named, standings
from troupe.league.payoffs import unpack
from troupe.league.pool import Member, Pool
from troupe.metrics import Metrics
from troupe.runs import RunFolder
from troupe.store import server
from troupe.store.board import Board
from troupe.store.connection import Store
from troupe.store.replay import ReplayLog
from troupe.weights.errors import MissingError, NotNewerError
from troupe.weights.watch import Weights
from troupe_actors import opponents
from troupe_actors.recorder import Author
from troupe_actors.sources import GameSource
from troupe_actors.worker import Session as ActorSession
from troupe_learners import league
from troupe_learners.worker import Session as LearnerSession

pytest.importorskip("pyspiel")

SEATS = {"player_0": "player", "player_1": "player"}


def a_job(**changes: object) -> Job:
    """Leduc by PPO. `changes` are keys of the job file, their dots written as `__`."""
    data: dict[str, object] = {
        "name": "leduc",
        "game": {"name": "openspiel", "rules": {"game": "leduc_poker"}},
        "algorithm": {"name": "ppo", "epochs": 1, "minibatches": 1},
        "policies": dict(SEATS),
        "network": {"hidden": 16, "layers": 1},
        "actors": {"count": 2, "tables": 8, "games": 2, "block_steps": 40, "device": "cpu"},
        "learner": {"device": "cpu", "precision": "fp32"},
        "opponents": {"share": 0.5, "every": 3, "keep": 3, "at_once": 2},
        "evaluation": {"every": 0},
        "store": {"memory_mb": 64},
    }
    for key, value in changes.items():
        put(data, f"{key.replace('__', '.')}={value}")
    return resolve(data)


@dataclass
class Shelf:
    """Stands in for the weight server: keeps the two newest versions, and those that are pinned."""

    newest: dict[str, int] = field(default_factory=dict)
    held: dict[tuple[str, int], Columns] = field(default_factory=dict)
    pinned: dict[tuple[str, int], Columns] = field(default_factory=dict)
    fetched: list[tuple[str, int | None]] = field(default_factory=list)
    keep: int = 2
    changed: threading.Condition = field(default_factory=threading.Condition)

    def publish(self, policy: str, version: int, tensors: Columns) -> None:
        with self.changed:
            if version <= self.newest.get(policy, -1):
                raise NotNewerError(f"{policy} {version}")
            self.held[policy, version] = tensors
            self.held.pop((policy, version - self.keep), None)
            self.newest[policy] = version
            self.changed.notify_all()

    def pin(self, policy: str, version: int) -> None:
        if (policy, version) not in self.pinned:
            if (policy, version) not in self.held:
                raise MissingError(f"{policy} {version}")
            self.pinned[policy, version] = self.held[policy, version]

    def latest(self, policy: str) -> int | None:
        return self.newest.get(policy)

    def wait(self, policy: str, newer_than: int, timeout: float) -> int | None:
        with self.changed:
            self.changed.wait_for(lambda: self.newest.get(policy, -1) > newer_than, timeout)
            newest = self.newest.get(policy, -1)
            return newest if newest > newer_than else None

    def at_hand(self, policy: str) -> None:
        """Nothing comes with its notice."""

    def fetch(self, policy: str, version: int | None = None) -> Weights:
        self.fetched.append((policy, version))
        with self.changed:
            version = self.newest[policy] if version is None else version
            found = self.held.get((policy, version)) or self.pinned.get((policy, version))
        if found is None:
            raise MissingError(f"{policy} {version}")
        return Weights(policy, version, found)


@dataclass
class Told:
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass
class Run:
    """One run of a job; every `play` is an attempt at it."""

    url: str
    folder: Path
    job: Job
    shelf: Shelf = field(default_factory=Shelf)
    metrics: Metrics = field(default_factory=Metrics)
    attempt: int = 0

    def play(self, updates: int, store: str = "") -> checkpoint.Checkpoint:
        """Go on until so many updates were made; what was saved at the end."""
        self.attempt += 1
        job = replace(self.job, stop=StopSettings(updates=updates))
        told, failed = Told(), []
        name = f"{self.folder.name}{store}"

        def act(slot: int) -> None:
            try:
                with self._ends(name, job, told, Metrics()) as ends:
                    ActorSession(self._setting("actor", slot), ends).run()
            except BaseException as error:  # noqa: BLE001 - raised again below
                failed.append(error)
                told.stop.set()

        actors = [threading.Thread(target=act, args=(n,)) for n in range(job.actors.count)]
        self.folder.mkdir(exist_ok=True)
        with closing(Store.connect(self.url, name)) as opened:
            Board(opened).clear_stop()
        try:
            with self._ends(name, job, told, self.metrics) as ends:
                # Threads share one random state for fresh weights, which processes do not.
                learner = LearnerSession(self._setting("learner", 0), ends, policies_of(job))
                for actor in actors:
                    actor.start()
                learner.run()
        finally:
            told.stop.set()
            for actor in actors:
                if actor.ident is not None:
                    actor.join()
        assert not failed, failed
        return checkpoint.load(checkpoint.newest(self.folder))

    @contextmanager
    def _ends(self, name: str, job: Job, told: Told, metrics: Metrics) -> Iterator[Connections]:
        with closing(Store.connect(self.url, name)) as store:
            yield Connections(
                job=job,
                attempt=self.attempt,
                incarnation=0,
                store=store,
                board=Board(store),
                replay=ReplayLog(store),
                weights=self.shelf,  # type: ignore[arg-type]
                metrics=metrics,
                reporter=told,  # type: ignore[arg-type]
            )

    def _setting(self, role: str, slot: int) -> WorkerSetting:
        return WorkerSetting(self.url, "", self.folder.name, self.folder, self.folder, role, slot)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = server.start(tmp_path_factory.mktemp("store"), password="p", memory_mb=64)
    yield running.url
    running.stop()


@pytest.fixture
def start(url: str, tmp_path: Path) -> Callable[..., Run]:
    """Makes runs, each in a place of its own in the store."""

    def make(name: str, **changes: object) -> Run:
        return Run(url, tmp_path / f"{tmp_path.name}-{name}", a_job(**changes))

    return make


def pool_of(state: checkpoint.Checkpoint) -> list[str]:
    return [member["name"] for member in state.documents["league"]["members"]]  # type: ignore[attr-defined]


def same_weights(left: checkpoint.Checkpoint, right: checkpoint.Checkpoint) -> None:
    for policy in left.weights:
        for name, tensor in left.weights[policy].items():
            np.testing.assert_array_equal(right.weights[policy][name], tensor, name)


# Whole runs.


def test_versions_join_are_met_and_are_rated(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opponents, "_NEW_SECONDS", 0.05)
    monkeypatch.setattr(league, "_EVERY", 0.05)
    run = start("async", opponents__every=8, opponents__keep=5)
    state = run.play(44)
    assert pool_of(state) == [f"player@{version}" for version in (8, 16, 24, 32, 40)]
    assert {version for _, version in run.shelf.pinned} == {0, 8, 16, 24, 32, 40}
    standing = standings.read(state, run.job)
    (policy,) = standing.policies
    assert sum(row.games for row in policy.rows) > 20
    told = run.metrics.snapshot()
    assert told["pool"] == 5
    assert told["elo_low/player"] < told["elo/player"] < told["elo_high/player"]
    assert 0 <= told["pool_win_rate/player"] <= 1


@pytest.mark.parametrize("lag", [0, 1])
def test_in_lockstep_a_run_with_a_pool_repeats_to_the_bit(
    start: Callable[..., Run], lag: int
) -> None:
    whole = start("whole", schedule="lockstep", lag=lag).play(9)
    again = start("again", schedule="lockstep", lag=lag).play(9)
    same_weights(whole, again)
    assert whole.documents == again.documents
    assert pool_of(whole) == ["player@0", "player@3", "player@6"]
    alone = start("alone", schedule="lockstep", lag=lag, opponents="null").play(9)
    with pytest.raises(AssertionError):
        same_weights(whole, alone)


@pytest.mark.parametrize(("lag", "first"), [(0, 6), (1, 4)])
def test_a_run_that_was_resumed_has_the_same_pool_and_table(
    start: Callable[..., Run], lag: int, first: int
) -> None:
    whole = start("whole", schedule="lockstep", lag=lag).play(9)
    parts = start("parts", schedule="lockstep", lag=lag)
    parts.play(first)
    parts.shelf.held.clear()
    parts.shelf.newest.clear()
    resumed = parts.play(9, store="-another")
    same_weights(whole, resumed)
    assert resumed.documents == whole.documents


def test_policies_of_their_own_meet_members_of_all_policies(start: Callable[..., Run]) -> None:
    policies = "{player_0: first, player_1: second}"
    changes = {"policies": policies, "schedule": "lockstep", "opponents__every": 2}
    state = start("two", **changes).play(12)
    assert pool_of(state) == ["all@0", "all@2", "all@4"]
    same_weights(state, start("two-again", **changes).play(12))
    for policy in ("first", "second"):
        assert state.documents["league"]["tables"][policy]  # type: ignore[index]


# Who sits where.


@dataclass
class FixedBench:
    members: tuple[str, ...]
    odds: Mapping[str, tuple[float, ...]]
    tensors: Mapping[str, Columns]
    asked: list[tuple[str, str]] = field(default_factory=list)

    def pool(self) -> Pool:
        return Pool(members=tuple(Member(name=name) for name in self.members), odds=self.odds)

    def weights(self, member: Member, policy: str) -> Columns | None:
        self.asked.append((member.name, policy))
        return self.tensors[policy] if member.name != "gone" else None


def a_source(job: Job, bench: FixedBench) -> GameSource:
    source = GameSource(job, 0, Author("actor-0", 0, 1), bench)
    for player in source.players:
        player.acting.load(bench.tensors[player.policy])
    return source


def a_bench(job: Job, members: tuple[str, ...], odds: tuple[float, ...]) -> FixedBench:
    from troupe.policies import create

    tensors = {
        policy: {name: t.numpy() for name, t in create(seen, job.network).state_dict().items()}
        for policy, seen in policies_of(job).items()
    }
    return FixedBench(members, dict.fromkeys(tensors, odds), tensors)


def test_only_the_policy_s_own_fragments_are_sent_and_games_add_up() -> None:
    job = a_job(opponents__share=1.0, actors__games=4)
    source = a_source(job, a_bench(job, ("old", "new"), (0.25, 0.75)))
    played = source.turn(3)
    (block,) = played.blocks
    records = unpack(block.resume)
    assert sum(record.games for record in records.values()) == 8 * 4
    assert len(np.unique(block.group)) == block.fragments, "one seat of a game"
    assert set(block.seat.tolist()) == {0, 1}
    assert block.reward.sum() == pytest.approx(sum(r.payoff for r in records.values()))
    assert source.turn(3).blocks[0].resume == block.resume


def test_a_share_of_nothing_and_an_empty_pool_leave_all_to_the_newest() -> None:
    for share, members, odds in ((0.0, ("old",), (1.0,)), (1.0, (), ())):
        job = a_job(opponents__share=share)
        played = a_source(job, a_bench(job, members, odds)).turn(0)
        assert played.blocks[0].resume == b""
        assert played.blocks[0].fragments == 2 * 16


def test_the_share_is_kept_and_chairs_change_hands() -> None:
    job = a_job(opponents__share=0.3, actors__tables=64, actors__block_steps=1)
    bench = a_bench(job, ("a", "b", "c"), (0.5, 0.0, 0.5))
    source = a_source(job, bench)
    games_played, against = 0, dict.fromkeys("abc", 0.0)
    for played in source.stream("actor", 0):
        games_played += played.episodes
        for block in played.blocks:
            for name, record in unpack(block.resume).items():
                against[name] += record.games
        if games_played > 3000:
            break
    total = sum(against.values())
    assert total / games_played == pytest.approx(0.3, abs=0.05)
    assert {name for name, _ in bench.asked} == {"a", "c"}, "chairs change hands"
    assert against["b"] == 0


def test_whoever_s_weights_are_gone_is_not_met() -> None:
    job = a_job(opponents__share=1.0)
    played = a_source(job, a_bench(job, ("gone",), (1.0,))).turn(0)
    assert played.blocks[0].resume == b""


# Other runs' members.


def a_finished_run(base: Path, job: Job, state: checkpoint.Checkpoint) -> RunFolder:
    run = RunFolder.create(base, job)
    checkpoint.save(run.path, state)
    return run


def test_a_named_run_plays_too_and_one_that_does_not_fit_is_refused(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    first = start("first", schedule="lockstep", opponents="null")
    other = a_finished_run(tmp_path, first.job, first.play(2))
    saved = checkpoint.newest(other.path)
    second = start("second", schedule="lockstep", opponents__named=[str(other.path)])
    assert second.job.opponents is not None
    assert second.job.opponents.named == (str(saved),)
    (member,) = named.members(second.job)
    assert member.policies == {"player": "player"}
    state = second.play(3)
    met = {entry[1] for entry in state.documents["league"]["tables"]["player"]}  # type: ignore[index]
    assert f"{other.name}/{saved.name}" in met
    for changes, what in (
        ({"network__hidden": 8}, "its network"),
        ({"game__rules__game": "kuhn_poker"}, "same game"),
        ({"opponents__named": [str(tmp_path / "nowhere")]}, "no such run"),
        ({"opponents__named": [str(saved), str(saved)]}, "twice"),
    ):
        with pytest.raises(UserError, match=what) as caught:
            a_job(**{"opponents__named": [str(saved)], **changes})
        assert str(caught.value).startswith("opponents.named: ")


def test_an_environment_has_no_opponents() -> None:
    data = {
        "name": "pole",
        "environment": {"name": "CartPole-v1"},
        "algorithm": {"name": "ppo"},
        "opponents": {},
    }
    with pytest.raises(UserError, match=r"^opponents: an environment"):
        resolve(data)


def test_a_run_is_shown_against_its_league(
    start: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    met = start("met", schedule="lockstep")
    run = a_finished_run(tmp_path, met.job, met.play(5))
    assert main(["league", str(run.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["player", "player@0", "player@3"]
    assert main(["league", str(run.path), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["policies"]
    games = sum(sum(entry[2:5]) for entry in shown["payoffs"])
    assert games == sum(row["games"] for row in shown["rows"][1:]) > 0
    run.write_job(a_job(opponents="null"))
    assert main(["league", str(run.path)]) == 2
    assert "has no pool" in capsys.readouterr().err
