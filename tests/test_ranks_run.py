"""Runs whose learner has two ranks: each worker is a process, in a real store."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from learner_stage import same
from ranks_crew import Crew

from troupe import checkpoint
from troupe.checkpoint import Checkpoint
from troupe.errors import UserError
from troupe.jobs.load import put
from troupe.jobs.resolve import resolve
from troupe.policies import devices
from troupe.store import server

POLE: Mapping[str, object] = {
    "name": "pole",
    "environment": {"name": "CartPole-v1"},
    "algorithm": {"name": "ppo", "epochs": 2, "minibatches": 2},
    "schedule": "lockstep",
    "network": {"normalise_observation": True, "normalise_reward": True},
    "actors": {"count": 2, "environments": 2, "rollout": 16},
    "learner": {"count": 2, "device": "cpu"},
    "checkpoint": {"every": 0.3},
    "evaluation": {"every": 0},
    "store": {"memory_mb": 64},
}
CARDS: Mapping[str, object] = {
    "name": "cards",
    "game": {"name": "doudizhu"},
    "algorithm": {"name": "deep_monte_carlo", "batch": 101},
    "network": {"hidden": 16, "layers": 1, "recurrent": 8},
    "actors": {"count": 2, "tables": 8, "block_steps": 40, "precision": "fp32"},
    "learner": {"count": 2, "device": "cpu", "precision": "fp32"},
    "checkpoint": {"every": 0.3},
    "evaluation": {"every": 0},
    "stop": {"updates": 30},
    "store": {"memory_mb": 64},
}
TURN = 64


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = server.start(tmp_path_factory.mktemp("store"), password="test", memory_mb=128)
    yield running.url
    running.stop()


def trained(
    url: str, folder: Path, name: str, *kill: tuple[str, int], **changes: object
) -> Checkpoint:
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in POLE.items()}
    for key, value in changes.items():
        put(data, f"{key.replace('__', '.')}={value}")
    crew = Crew(url, folder, name, data)
    try:
        crew.wait(*kill, after=8)
    finally:
        crew.close()
    return checkpoint.load(checkpoint.newest(folder / name))


def test_two_ranks_train_in_turns_alike_whatever_is_killed_or_resumed(
    url: str, tmp_path: Path
) -> None:
    turns = 30
    once = trained(url, tmp_path, "once", stop__updates=turns)
    assert once.updates == {"agent": turns}
    assert once.step == turns * TURN
    assert {*once.resume} == {0, 1}
    assert {*once.positions} == {"0", "1"}
    trained(url, tmp_path, "again", stop__updates=turns // 3)
    again = trained(url, tmp_path, "again", stop__updates=turns)
    killed = trained(url, tmp_path, "killed", ("learner", 1), ("learner", 0), stop__updates=turns)
    for other in (again, killed):
        assert other.step == once.step
        same(once.weights, other.weights)
        same(once.states, other.states)
        assert other.random == once.random
        assert other.settings == once.settings


def test_the_number_of_ranks_stays(url: str, tmp_path: Path) -> None:
    trained(url, tmp_path, "fewer", stop__updates=2)
    with pytest.raises(AssertionError, match=r"learner.count: 1, the run was saved with 2"):
        trained(url, tmp_path, "fewer", stop__updates=3, learner__count=1)


def test_freely_several_policies_are_trained_by_ranks_that_go_on_when_one_is_lost(
    url: str, tmp_path: Path
) -> None:
    crew = Crew(url, tmp_path, "cards", CARDS)
    try:
        crew.wait(("learner", 1), after=8)
    finally:
        crew.close()
    state = checkpoint.load(checkpoint.newest(tmp_path / "cards"))
    assert state.step >= 30 * 101
    assert min(state.updates.values()) > 5
    assert state.positions.keys() == {"0", "1"}


def test_freely_each_rank_draws_from_a_replay_of_its_own(url: str, tmp_path: Path) -> None:
    changes = {
        "algorithm": "{name: dqn, batch: 33, learning_starts: 100, capacity: 1000}",
        "network": "{}",
        "actors.rollout": 8,
        "stop.updates": 30,
        "schedule": "async",
    }
    state = trained(
        url, tmp_path, "replay", **{k.replace(".", "__"): v for k, v in changes.items()}
    )
    assert state.updates == {"agent": 30}
    assert {*state.ranks} == {1}
    assert not state.replays
    locked = trained(
        url,
        tmp_path,
        "replay-in-turns",
        **{k.replace(".", "__"): v for k, v in changes.items()} | {"schedule": "lockstep"},
    )
    assert len(locked.replays["agent"]["reward"]) == 30 * 16
    assert len(locked.ranks[1]["memory/agent/reward"]) == 30 * 16


@pytest.mark.parametrize(
    ("actors", "algorithm", "message"),
    [
        (1, "ppo", "each rank learns from actors of its own, and actors.count is 1"),
        (3, "ppo", "2 ranks do not share actors.count: 3 evenly"),
        (3, "dqn", None),
    ],
)
def test_ranks_need_actors_to_share(actors: int, algorithm: str, message: str | None) -> None:
    data = {
        **POLE,
        "algorithm": {"name": algorithm},
        "network": {},
        "actors": {"count": actors},
        "schedule": "async",
    }
    if message is None:
        assert resolve(data).learner.count == 2
    else:
        with pytest.raises(UserError, match=rf"^learner.count: .*{message}"):
            resolve(data)


def test_ranks_share_language_models_alone() -> None:
    data = {**POLE, "learner": {"count": 2, "sharding": "full"}}
    with pytest.raises(UserError, match=r"^learner.sharding: full divides language models"):
        resolve(data)
    with pytest.raises(UserError, match=r"^learner.precision: fp16 scales its loss"):
        devices.check_sharding("fp16")
