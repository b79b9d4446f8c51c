"""The learner with plans other than a queue of rows: whole blocks, replay, and turns in lockstep."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from learner_stage import Stage, same

from troupe import checkpoint
from troupe.checkpoint import CheckpointError
from troupe.episodes import Columns, Ending, Episodes
from troupe.errors import TroupeError
from troupe.policies import ACTION, Spaces
from troupe.store import server
from troupe.store.connection import Store
from troupe.store.lockstep import Places
from troupe.store.replay import Limits
from troupe_learners.limits import limits_of

ACTORS, ENVIRONMENTS, ROLLOUT = 2, 2, 8
BLOCK = ENVIRONMENTS * ROLLOUT
TURN = ACTORS * BLOCK
SEEN = {"state": spaces.Box(-5, 5, (3,), np.float32)}
DISCRETE = Spaces(SEEN, spaces.Discrete(2))
CONTINUOUS = Spaces(SEEN, spaces.Box(-1, 1, (1,), np.float32))
COMMON: Mapping[str, object] = {
    "environment": {"name": "toy"},
    "actors": {"count": ACTORS, "environments": ENVIRONMENTS, "rollout": ROLLOUT},
    "learner": {"precision": "fp32", "device": "cpu"},
    "store": {"memory_mb": 64},
}
PPO: Mapping[str, object] = {
    **COMMON,
    "algorithm": {"name": "ppo", "objective": "penalty", "anneal": True, "minibatches": 2, "epochs": 2},
    "network": {"kind": "actor_critic", "hidden": 8, "layers": 1, "recurrent": 0, "normalise_observation": True, "normalise_reward": True},
}  # fmt: skip
DDPG: Mapping[str, object] = {
    **COMMON,
    "algorithm": {"name": "ddpg", "capacity": 100, "batch": 16, "learning_starts": 50, "updates_per_step": 0.1, "n_step": 2, "prioritised": {}, "twin": True, "policy_delay": 2, "smoothing": {}},
    "network": {"kind": "deterministic", "hidden": 8, "layers": 1, "recurrent": 0, "critics": 2},
}  # fmt: skip
SCHEDULES = pytest.mark.parametrize(
    "schedule",
    [{}, {"schedule": "lockstep"}, {"schedule": "lockstep", "lag": 1}],
    ids=["async", "lag0", "lag1"],
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = server.start(tmp_path_factory.mktemp("store"), password="secret", memory_mb=64)
    yield running.url
    running.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def stage(
    url: str, folder: Path, name: str, job: Mapping[str, object], seen: Spaces, turns: int = 8
) -> Stage:
    """A run that is meant to have so many turns in the end."""
    made = Stage(url, folder / name, f"{folder.name}-{name}", {**job, "stop": {"updates": turns}}, {"agent": seen})  # fmt: skip
    made.folder.mkdir(exist_ok=True)
    return made


def played(
    turn: int, slot: int, seen: Spaces, version: int | None = None, policy: str = "agent"
) -> Episodes:
    """What an actor plays in a turn: the same whoever learns. Fragments of 5 steps and of 3 that are cut."""
    random = np.random.default_rng([turn, slot])
    length = np.tile([5, 3], ENVIRONMENTS).astype(np.int32)
    n = len(length)
    actions = random.integers(0, 2, BLOCK) if seen is DISCRETE else random.uniform(-1, 1, (BLOCK, 1)).astype(np.float32)  # fmt: skip
    return Episodes(
        policy=policy,
        actor=f"actor-{slot}",
        incarnation=0,
        attempt=1,
        observation={"state": random.normal(2, 1, (BLOCK, 3)).astype(np.float32)},
        action={ACTION: actions},
        reward=random.normal(3, 1, BLOCK).astype(np.float32),
        log_prob=np.full(BLOCK, np.log(0.5), np.float32),
        version=np.full(BLOCK, turn if version is None else version, np.uint32),
        length=length,
        seat=np.zeros(n, np.uint8),
        group=np.repeat(np.arange(ENVIRONMENTS) << 40, 2) + np.tile([turn, turn + 1], ENVIRONMENTS),
        ending=np.tile([Ending.TERMINATED, Ending.CUT], ENVIRONMENTS).astype(np.uint8),
        final={"state": random.normal(2, 1, (n, 3)).astype(np.float32)},
        turn=turn,
        resume=b"actor %d behind turn %d" % (slot, turn),
    )


def push(made: Stage, seen: Spaces, turns: range) -> None:
    with made.session():
        pass
    made.replay.configure(Limits(10**6, 10**6))
    made.push(*[played(turn, slot, seen) for turn in turns for slot in range(ACTORS)])


def learn(made: Stage, updates: int, attempt: int = 1) -> None:
    """Train until so many turns are over, although the run is meant to have more."""
    with made.session(attempt) as session:
        over = session._over
        session._over = lambda: over() or session.updates >= updates  # type: ignore[method-assign]
        session.run()


@pytest.mark.parametrize(
    ("job", "seen", "schedule"),
    [
        (PPO, DISCRETE, {}),
        (PPO, DISCRETE, {"schedule": "lockstep"}),
        (PPO, DISCRETE, {"schedule": "lockstep", "lag": 1}),
        (DDPG, CONTINUOUS, {"schedule": "lockstep"}),
        (DDPG, CONTINUOUS, {"schedule": "lockstep", "lag": 1}),
    ],
    ids=["ppo-async", "ppo-lag0", "ppo-lag1", "ddpg-lag0", "ddpg-lag1"],
)
def test_a_resumed_learner_ends_bit_by_bit_where_an_unbroken_one_does(
    url: str, folder: Path, job: Mapping[str, object], seen: Spaces, schedule: Mapping[str, object]
) -> None:
    """Weights, statistics, targets, optimizers and memories: all of it is in the checkpoint.

    But for memories in async, which the store fills again without their priorities.
    """
    job = {**job, **schedule}
    unbroken = stage(url, folder, "unbroken", job, seen)
    broken = stage(url, folder, "broken", job, seen)
    for made in (unbroken, broken):
        push(made, seen, range(8))
    learn(unbroken, 8)
    for updates in (3, 5, 8):
        learn(broken, updates)
    state, expected = broken.state(), unbroken.state()
    assert state.updates == expected.updates == {"agent": 8}
    assert state.step == expected.step == 8 * TURN
    same(expected.weights, state.weights)
    same(expected.states, state.states)
    assert state.random == expected.random
    assert state.settings == expected.settings
    same(*(memories(one.replays) for one in (expected, state)))
    assert bool(state.replays) == ("schedule" in schedule and job["algorithm"] is DDPG["algorithm"])
    for version in range(9):
        key = ("agent", version)
        same({"": unbroken.published.weights[key]}, {"": broken.published.weights[key]})
    assert broken.replay.state().backlog == 0


def memories(replays: Mapping[str, Columns]) -> dict[str, Columns]:
    """Without the ids of blocks: those are another store's."""
    return {
        policy: {name: column for name, column in columns.items() if name != "ids"}
        for policy, columns in replays.items()
    }


def test_statistics_are_published_and_saved_as_weights_are(url: str, folder: Path) -> None:
    made = stage(url, folder, "run", PPO, DISCRETE)
    push(made, DISCRETE, range(2))
    learn(made, 2)
    names = [name for name in made.published.weights["agent", 0] if name.endswith("count")]
    (name,) = (name for name in names if "returns" not in name)
    counts = [int(made.published.weights["agent", version][name]) for version in range(3)]
    assert counts == [0, TURN, 2 * TURN]
    same({"": made.published.weights["agent", 2]}, {"": made.state().weights["agent"]})


def test_a_deterministic_policy_says_how_often_it_was_trained(url: str, folder: Path) -> None:
    """3.2 optimizer steps for a turn of 32, of which the fraction is carried over."""
    made = stage(url, folder, "run", DDPG, CONTINUOUS)
    push(made, CONTINUOUS, range(6))
    learn(made, 6)
    trained = [int(made.published.weights["agent", version]["updates"]) for version in range(7)]
    assert trained == [0, 0, 3, 6, 9, 12, 16]


def test_in_async_the_store_fills_a_memory_again(url: str, folder: Path) -> None:
    """100 steps are kept: those of the last four turns, of which the oldest gave way in part."""
    made = stage(url, folder, "run", DDPG, CONTINUOUS)
    push(made, CONTINUOUS, range(8))
    learn(made, 6)
    log = made.replay.state()
    assert (log.backlog, log.retained_blocks) == (2 * TURN, 7 + 4)
    assert sum(made.state().positions["0"].rows.values()) == 7 * BLOCK
    learn(made, 7)
    assert made.state().step == 7 * TURN
    assert made.metrics.snapshot()["steps_trained"] == 7 * TURN
    assert made.replay.state().backlog == TURN


def test_lockstep_takes_turns_whatever_the_order(url: str, folder: Path) -> None:
    job = {**PPO, "schedule": "lockstep", "lag": 1}
    straight, mixed = (stage(url, folder, name, job, DISCRETE, 3) for name in ("straight", "mixed"))
    push(straight, DISCRETE, range(3))
    push(mixed, DISCRETE, range(0))
    order = [(0, 1), (1, 1), (0, 1), (0, 0), (1, 0), (0, 0), (2, 0), (1, 0), (2, 1)]
    mixed.push(*[played(turn, slot, DISCRETE) for turn, slot in order])
    learn(straight, 3)
    learn(mixed, 3)
    same(straight.state().weights, mixed.state().weights)
    assert mixed.replay.state().backlog == 0
    assert mixed.replay.state().retained_blocks == 0


def test_lockstep_waits_for_what_is_missing(url: str, folder: Path) -> None:
    made = stage(url, folder, "run", {**PPO, "schedule": "lockstep"}, DISCRETE, 2)
    push(made, DISCRETE, range(0))
    made.push(played(0, 0, DISCRETE), played(0, 1, DISCRETE), played(1, 0, DISCRETE))
    with made.session() as session:
        thread = threading.Thread(target=session.run)
        thread.start()
        while made.published.newest("agent") < 1:
            assert thread.is_alive()
        thread.join(0.3)
        assert made.published.newest("agent") == 1
        made.push(played(1, 1, DISCRETE))
        thread.join(20)
    assert not thread.is_alive()
    assert made.state().step == 2 * TURN


def test_a_turn_without_steps_is_a_turn(url: str, folder: Path) -> None:
    made = stage(url, folder, "run", {**PPO, "schedule": "lockstep"}, DISCRETE, 3)
    push(made, DISCRETE, range(0))
    for turn in range(3):
        for slot in range(ACTORS):
            block = played(turn, slot, DISCRETE)
            made.push(without_steps(block) if turn == 1 or slot == 1 else block)
    learn(made, 3)
    assert made.state().step == 2 * BLOCK
    assert made.state().updates == {"agent": 3}
    same(
        {"": made.published.weights["agent", 1]},
        {"": made.published.weights["agent", 2]},
    )


def without_steps(block: Episodes) -> Episodes:
    def none(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        return {name: column[:0] for name, column in columns.items()}

    columns = ("reward", "log_prob", "version", "length", "seat", "group", "ending")
    return replace(
        block,
        observation=none(block.observation),
        action=none(block.action),
        final=none(block.final),
        **{name: getattr(block, name)[:0] for name in columns},
    )


@pytest.mark.parametrize("lag", [0, 2])
def test_a_resumed_run_gives_actors_their_places_and_weights(
    url: str, folder: Path, lag: int
) -> None:
    made = stage(url, folder, "run", {**PPO, "schedule": "lockstep", "lag": lag}, DISCRETE)
    push(made, DISCRETE, range(5))
    learn(made, 5)
    published = made.published.weights
    # Another attempt, with a store and a weight server that know nothing.
    again = replace(made, name=made.name + "-again")
    again.published = type(made.published)()
    places = Places(Store.connect(url, again.name))
    assert places.announced(2) is None
    with again.session(attempt=2) as session:
        again.told.stop.set()
        session.run()
    assert places.announced(2) == 5
    assert [places.get(slot) for slot in range(ACTORS)] == [
        (5, b"actor 0 behind turn 4"),
        (5, b"actor 1 behind turn 4"),
    ]
    assert [version for _, version in again.published.weights] == list(range(5 - lag, 6))
    for key, weights in again.published.weights.items():
        same({"": published[key]}, {"": weights})


def test_a_learner_that_dies_leaves_actors_their_places(url: str, folder: Path) -> None:
    made = stage(url, folder, "run", {**PPO, "schedule": "lockstep"}, DISCRETE)
    push(made, DISCRETE, range(4))
    learn(made, 2)
    places = Places(Store.connect(url, made.name))
    assert places.announced(1) == 0
    assert places.get(0) is None
    learn(made, 3)
    assert places.announced(1) == 0
    assert places.get(0) is None


def test_another_number_of_actors_is_refused(url: str, folder: Path) -> None:
    job = {**PPO, "schedule": "lockstep"}
    made = stage(url, folder, "run", job, DISCRETE)
    push(made, DISCRETE, range(2))
    learn(made, 2)
    made.job = {**made.job, "actors": {"count": 3}}
    with pytest.raises(CheckpointError, match=r"actors.count: 3, the run was saved with 2"):
        learn(made, 3)


def test_a_store_that_loses_its_memory_ends_a_run_in_lockstep(url: str, folder: Path) -> None:
    made = stage(url, folder, "run", {**PPO, "schedule": "lockstep"}, DISCRETE)
    push(made, DISCRETE, range(1))
    failed: list[TroupeError] = []

    def run() -> None:
        try:
            session.run()
        except TroupeError as error:
            failed.append(error)

    with made.session() as session:
        thread = threading.Thread(target=run)
        thread.start()
        while made.published.newest("agent") < 1:
            assert thread.is_alive()
        store = Store.connect(made.url, made.name)
        store.redis.delete(*store.redis.scan_iter(store.key("*")))
        thread.join(20)
    assert "lost its memory" in str(failed[0])


@SCHEDULES
def test_what_a_killed_learner_had_not_saved_is_learned_again(
    url: str, folder: Path, schedule: Mapping[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stage(url, folder, "run", {**DDPG, **schedule}, CONTINUOUS)
    push(made, CONTINUOUS, range(8))
    learn(made, 3)
    with monkeypatch.context() as patch:

        def killed(*_: object, **__: object) -> None:
            raise InterruptedError

        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(InterruptedError):
            learn(made, 6)
    learn(made, 8)
    assert made.metrics.snapshot()["republished"] >= 3
    same({"": made.published.weights["agent", 8]}, {"": made.state().weights["agent"]})
    assert made.state().step == 8 * TURN


def test_what_may_wait_is_about_a_turn(url: str, folder: Path) -> None:
    def capacity(job: Mapping[str, object]) -> int:
        with stage(url, folder, "run", job, DISCRETE).session() as session:
            return limits_of(session._job, session._plan).capacity_steps

    assert capacity(PPO) == TURN
    assert capacity({**PPO, "store": {"capacity": 1, "memory_mb": 64}}) == TURN
    assert capacity({**PPO, "schedule": "lockstep"}) > 10**12
