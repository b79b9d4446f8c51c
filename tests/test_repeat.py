"""In lockstep a run repeats to the bit: whoever is killed, whatever is lost, and wherever it plays."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from hurt_runs import Runs, data, trained_on
from learner_stage import same

from troupe import checkpoint
from troupe.errors import UserError
from troupe.jobs.resolve import resolve
from troupe.store import server

POLE: Mapping[str, object] = {
    "name": "pole",
    "environment": {"name": "CartPole-v1"},
    "algorithm": {"name": "ppo"},
    "schedule": "lockstep",
    "actors": {"environments": 2, "rollout": 8},
    "learner": {"device": "cpu"},
    "checkpoint": {"every": 0.2},
    "evaluation": {"every": 0},
    "store": {"memory_mb": 64},
}
PPO = "{name: ppo, epochs: 2, minibatches: 2}"
DQN = "{name: dqn, batch: 16, learning_starts: 64, capacity: 500, updates_per_step: 0.1}"
TURNS = 150


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = server.start(tmp_path_factory.mktemp("store"), password="test", memory_mb=128)
    yield running.url
    running.stop()


@pytest.mark.parametrize(
    ("algorithm", "actors", "lag"), [(PPO, 1, 0), (PPO, 3, 1), (DQN, 3, 0), (DQN, 1, 1)]
)
def test_a_run_ends_with_the_same_weights_however_it_went(
    url: str, tmp_path: Path, algorithm: str, actors: int, lag: int
) -> None:
    changes = (f"algorithm={algorithm}", f"actors.count={actors}", f"lag={lag}")
    runs = Runs(url, tmp_path, POLE, f"stop.updates={TURNS}", *changes)
    tag = f"{algorithm[7:10]}-{actors}-{lag}"
    once = runs.run(f"{tag}-once")
    assert once.updates == {"agent": TURNS}
    assert once.step == TURNS * 16 * actors

    hurt = runs.hurt(f"{tag}-hurt")
    together = runs.run(f"{tag}-together", "actors.colocated=true")
    for other in (hurt, together):
        assert other.step == once.step
        same(once.weights, other.weights)
        same(once.states, other.states)
        assert other.random == once.random
        assert {**other.resume} == {**once.resume}


def test_actors_in_the_learners_process_go_on_from_a_checkpoint(url: str, tmp_path: Path) -> None:
    runs = Runs(url, tmp_path, POLE, f"algorithm={PPO}", "actors.count=2", "lag=1")
    once = runs.run("apart", "stop.updates=30")
    runs.run("moved", "stop.updates=10", "actors.colocated=true")
    runs.run("moved", "stop.updates=20")
    moved = runs.run("moved", "stop.updates=30", "actors.colocated=true")
    same(once.weights, moved.weights)


def test_an_actor_beside_the_learner_may_be_killed(url: str, tmp_path: Path) -> None:
    changes = (f"algorithm={PPO}", "actors.count=2", "actors.colocated=true", "lag=1")
    runs = Runs(url, tmp_path, POLE, *changes, "stop.updates=300")
    once = runs.run("left-alone")
    crew = runs.crew("robbed")
    try:
        trained_on(crew)
        learner = psutil.Process(crew.posts["learner", 0].pid)
        one, _ = learner.children()
        one.kill()
        crew.wait()
    finally:
        crew.close()
    assert "beginning again from the checkpoint" in (crew.run / "learner-0.log").read_text()
    same(once.weights, checkpoint.load(checkpoint.newest(crew.run)).weights)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule=async"], r"actors.colocated: true needs schedule: lockstep"),
        (
            [
                "environment=null",
                "game={name: openspiel, rules: {game: kuhn_poker}}",
                "opponents={}",
            ],
            r"actors.colocated: true has no opponents",
        ),
    ],
)
def test_where_actors_cannot_be_colocated(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(data(POLE, "actors.colocated=true", *overrides))
