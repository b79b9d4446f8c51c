"""In lockstep a run repeats to the bit: whoever is killed, whatever is lost, and wherever it plays."""

import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from learner_stage import same
from ranks_crew import PATIENCE, Crew

from troupe import checkpoint
from troupe.checkpoint import Checkpoint
from troupe.errors import UserError
from troupe.jobs.load import put
from troupe.jobs.resolve import resolve
from troupe.store import server
from troupe.store.connection import Store

POLE: Mapping[str, object] = {
    "name": "pole",
    "environment": {"name": "CartPole-v1"},
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


class Runs:
    """Runs of one job, each with what is put over it."""

    def __init__(self, url: str, folder: Path, **changes: object) -> None:
        self.url, self.folder = url, folder
        self.data = {k: dict(v) if isinstance(v, dict) else v for k, v in POLE.items()}
        put(self.data, f"stop.updates={TURNS}")
        for key, value in changes.items():
            put(self.data, f"{key.replace('__', '.')}={value}")

    def crew(self, name: str, *overrides: str) -> Crew:
        data = {k: dict(v) if isinstance(v, dict) else v for k, v in self.data.items()}
        for override in overrides:
            put(data, override)
        return Crew(self.url, self.folder, name, data)

    def run(self, name: str, *overrides: str) -> Checkpoint:
        crew = self.crew(name, *overrides)
        try:
            crew.wait()
        finally:
            crew.close()
        return checkpoint.load(checkpoint.newest(self.folder / name))

    def hurt(self, name: str) -> Checkpoint:
        """Kill one worker after the other at random moments, then all at once; forget the store too."""
        crew, moments = self.crew(name), random.Random(name)
        trained_on(crew)
        for post in moments.sample(sorted(crew.posts), 2):
            crew.posts[post].kill()
            deadline = time.monotonic() + moments.uniform(0.1, 0.5)
            while time.monotonic() < deadline:
                assert not crew.look_after(), f"done before {name} was hurt"
        for process in crew.posts.values():
            process.kill()
        for process in crew.posts.values():
            process.join()
        redis = Store.connect(self.url, name).redis
        redis.delete(*redis.keys(f"troupe:{name}:*"))
        return self.run(name)


def trained_on(crew: Crew) -> None:
    """Wait for a checkpoint."""
    deadline = time.monotonic() + PATIENCE
    while not list((crew.run / "checkpoints").glob("step-*")):
        assert not crew.look_after(), "done before it was saved"
        assert time.monotonic() < deadline, crew.told()
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("algorithm", "actors", "lag"), [(PPO, 1, 0), (PPO, 3, 1), (DQN, 3, 0), (DQN, 1, 1)]
)
def test_a_run_ends_with_the_same_weights_however_it_went(
    url: str, tmp_path: Path, algorithm: str, actors: int, lag: int
) -> None:
    runs = Runs(url, tmp_path, algorithm=algorithm, actors__count=actors, lag=lag)
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
    runs = Runs(url, tmp_path, algorithm=PPO, actors__count=2, lag=1)
    once = runs.run("apart")
    runs.run("moved", f"stop.updates={TURNS // 3}", "actors.colocated=true")
    runs.run("moved", f"stop.updates={TURNS // 2}")
    same(once.weights, runs.run("moved", "actors.colocated=true").weights)


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
    data = {k: dict(v) if isinstance(v, dict) else v for k, v in POLE.items()}
    for override in ("algorithm.name=ppo", "actors.colocated=true", *overrides):
        put(data, override)
    with pytest.raises(UserError, match=message):
        resolve(data)
