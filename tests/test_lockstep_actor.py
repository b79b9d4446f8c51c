"""An actor in lockstep: turn after turn, and after its death as if it had never died."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from troupe.codec import encode
from troupe.config import parse
from troupe.episodes import Array, Episodes
from troupe.errors import TroupeError, UserError
from troupe.jobs.roles import policies_of
from troupe.jobs.spec import Job
from troupe.metrics import Metrics
from troupe.policies import create
from troupe.store import server
from troupe.store.board import Board
from troupe.store.connection import Store
from troupe.store.lockstep import Place, Places
from troupe.store.replay import Outcome, Push
from troupe_actors.environments import RepeatError
from troupe_actors.worker import Session
from troupe_learners import lockstep

TURNS = 6


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = server.start(tmp_path_factory.mktemp("store"), password="p", memory_mb=64)
    yield running.url
    running.stop()


@pytest.fixture
def store(store_url: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    opened = Store.connect(store_url, request.node.name)
    yield opened
    opened.redis.flushdb()
    opened.close()


def a_job(**changes: object) -> Job:
    data = {
        "name": "small",
        "environment": {"name": "CartPole-v1"},
        "algorithm": {"name": "ppo"},
        "schedule": "lockstep",
        "lag": 1,
        "network": {"kind": "actor_critic", "hidden": 8, "layers": 1, "recurrent": 4},
        "actors": {"environments": 3, "rollout": 7, "tables": 4, "games": 2, "precision": "fp32"},
    }
    return parse(Job, {**data, **changes})


DOUDIZHU = {
    "environment": None,
    "game": {"name": "doudizhu"},
    "network": {"kind": "action_value", "hidden": 8, "layers": 1, "recurrent": 4},
}


class Versions:
    """Weights of every version, made from its number; asked for as a weight server is."""

    def __init__(self, job: Job) -> None:
        self.job, self.spaces = job, policies_of(job)
        self.asked: list[int] = []

    def wait(self, policy: str, newer_than: int, timeout: float) -> int:
        return newer_than + 1

    def fetch(self, policy: str, version: int) -> Any:
        self.asked.append(version)
        torch.manual_seed(version)
        network = create(self.spaces[policy], self.job.network)
        tensors = {name: value.numpy() for name, value in network.state_dict().items()}
        return SimpleNamespace(version=version, tensors=tensors)


class DiedError(Exception):
    """What kill -9 does."""


class Log:
    """Keeps what is pushed; the actor dies just before or behind the push of turn `dies_in`."""

    def __init__(self, dies_in: int, before: bool) -> None:
        self.blocks: list[Episodes] = []
        self.asked: list[int] = []
        self.dies_in, self.before = dies_in, before

    def push_many(self, blocks: list[Episodes], stop: threading.Event) -> list[Push]:
        dies = any(block.turn == self.dies_in for block in blocks)
        if not (dies and self.before):
            self.blocks += blocks
        if dies:
            raise DiedError
        if max(block.turn for block in blocks) == TURNS - 1:
            stop.set()
        return [Push(Outcome.PUSHED, 0.0)] * len(blocks)


def live(
    store: Store, job: Job, incarnation: int = 0, dies_in: int = -1, before: bool = True
) -> Log:
    """One life of the actor in slot 1, to the end of the turns or to its death."""
    log = Log(dies_in, before)
    ends: Any = SimpleNamespace(
        job=job,
        store=store,
        incarnation=incarnation,
        attempt=0,
        metrics=Metrics(),
        reporter=SimpleNamespace(stop=threading.Event()),
        weights=Versions(job),
        replay=log,
    )
    setting: Any = SimpleNamespace(name="actor-1", role="actor", slot=1)
    try:
        Session(setting, ends).run()
    except DiedError:
        assert dies_in >= 0
    log.asked = ends.weights.asked
    return log


def begin(store: Store, turn: int = 0, resume: dict[int, bytes] | None = None) -> None:
    lockstep.begin(Board(store), 0, turn, resume or {}, 2)


def written(blocks: list[Episodes]) -> list[bytes]:
    """Blocks as bytes, whichever life of the actor they are from."""
    return [bytes(encode(replace(block, incarnation=0))) for block in blocks]


@pytest.mark.parametrize("kind", [{}, DOUDIZHU], ids=["environment", "game"])
def test_every_turn_is_played_with_its_version(store: Store, kind: dict[str, object]) -> None:
    job = a_job(**kind)
    begin(store)
    log = live(store, job)
    per_turn = len(policies_of(job))
    assert [b.turn for b in log.blocks] == [t for t in range(TURNS) for _ in range(per_turn)]
    for block in log.blocks:
        assert set(block.version.tolist()) == {max(0, block.turn - 1)}
    place = Places(store).get(1)
    assert place is not None
    assert place == Place(TURNS, log.blocks[-1].resume)
    assert log.asked == [v for v in range(TURNS - 1) for _ in range(per_turn)]


def test_a_games_turn_is_a_number_of_whole_games(store: Store) -> None:
    begin(store)
    for block in live(store, a_job(**DOUDIZHU)).blocks:
        assert block.resume == b""
        assert len(set(block.group.tolist())) == block.fragments == 8


@pytest.mark.parametrize("before", [True, False], ids=["before its push", "behind its push"])
@pytest.mark.parametrize("kind", [{}, DOUDIZHU], ids=["environment", "game"])
def test_an_actor_that_dies_goes_on_to_the_bit(
    store: Store, kind: dict[str, object], before: bool
) -> None:
    job = a_job(**kind)
    begin(store)
    whole = written(live(store, job).blocks)
    begin(store)
    pushed: list[bytes] = []
    for life, dies_in in enumerate((0, 0, 2, 3, 3, -1)):
        pushed += written(live(store, job, life, dies_in, before).blocks)
    assert list(dict.fromkeys(pushed)) == whole


def test_a_resumed_run_goes_on_from_what_blocks_carry(store: Store) -> None:
    job = a_job()
    begin(store)
    whole = live(store, job).blocks
    begin(store, 3, {1: whole[2].resume})
    assert written(live(store, job).blocks) == written(whole[3:])


class Forgetful(gymnasium.Env[Any, Any]):
    """Shows a number that no seed determines."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    shown: Callable[[], Array] = staticmethod(
        lambda: np.random.default_rng().uniform(-1, 1, 2).astype(np.float32)
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.shown(), {}

    def step(self, action: Any) -> Any:
        return self.shown(), 0.0, False, False, {}


class Endless(Forgetful):
    shown = staticmethod(lambda: np.zeros(2, np.float32))


class Mortal(Forgetful):
    """Ends at once in its second life."""

    life = 0
    shown = staticmethod(lambda: np.zeros(2, np.float32))

    def step(self, action: Any) -> Any:
        return self.shown(), 0.0, Mortal.life > 0, False, {}


def in_world(kind: type) -> Job:
    return a_job(environment={"name": f"{__name__}:{kind.__name__}"})


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Forgetful, "slot 0: does not repeat itself: 14 steps into episode 0 it shows something"),
        (Mortal, "slot 0: does not repeat itself: its episode ended in step 1 of 14"),
    ],
)
def test_an_environment_that_does_not_repeat_itself_is_found_out(
    store: Store, kind: type, told: str
) -> None:
    begin(store)
    Mortal.life = 0
    live(store, in_world(kind), dies_in=2)
    Mortal.life = 1
    with pytest.raises(RepeatError, match=told):
        live(store, in_world(kind), 1)


def test_what_cannot_be_resumed_from_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(store)
    state = live(store, in_world(Endless), dies_in=2).blocks[-1].resume
    begin(store, 2, {1: state[:-1]})
    with pytest.raises(TroupeError, match="is damaged"):
        live(store, in_world(Endless))
    begin(store, 2, {1: state})
    job = in_world(Endless)
    more = replace(job, actors=replace(job.actors, environments=4))
    with pytest.raises(UserError, match=r"actors\.environments: 4, but .* with 3"):
        live(store, more)
    monkeypatch.setattr("troupe_actors.tape.MAX_RESUME", 1000)
    begin(store)
    with pytest.raises(UserError, match="max_episode_steps"):
        live(store, in_world(Endless))


def test_an_actor_waits_for_its_attempt_to_begin(store: Store) -> None:
    places = Places(store)
    assert places.announced(0) is None
    begin(store, 4)
    assert places.announced(0) == 4
    assert places.announced(1) is None
    assert places.get(1) is None


def test_a_vectorised_environment_is_refused_at_once(store: Store) -> None:
    begin(store)
    name = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"
    with pytest.raises(UserError, match="vectorised, so its episodes cannot be begun one by one"):
        live(store, a_job(environment={"name": name}))
