"""A learner's session with a real store, and stand-ins for the weight server and the reporter."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from troupe import checkpoint
from troupe.config import parse
from troupe.episodes import Array, Columns, Episodes
from troupe.jobs.setting import Connections, WorkerSetting
from troupe.jobs.spec import Job
from troupe.metrics import Metrics
from troupe.policies import Spaces
from troupe.store.board import Board
from troupe.store.connection import Store
from troupe.store.replay import ReplayLog
from troupe.weights.errors import NotNewerError
from troupe_learners.worker import Session


@dataclass
class Published:
    """Stands in for the weight server: keeps every version."""

    weights: dict[tuple[str, int], Columns] = field(default_factory=dict)

    def publish(self, policy: str, version: int, tensors: Mapping[str, Array]) -> None:
        if version <= self.newest(policy):
            raise NotNewerError(f"{policy} {version}")
        self.weights[policy, version] = tensors

    def newest(self, policy: str) -> int:
        return max((version for name, version in list(self.weights) if name == policy), default=-1)


@dataclass
class Told:
    """Stands in for the reporter: only the word to stop."""

    stop: threading.Event = field(default_factory=threading.Event)


@dataclass
class Stage:
    """One run: its folder, its place in the store, and what its learner publishes."""

    url: str
    folder: Path
    name: str
    job: Mapping[str, object]
    policies: Mapping[str, Spaces]
    published: Published = field(default_factory=Published)
    told: Told = field(default_factory=Told)
    metrics: Metrics = field(default_factory=Metrics)
    stop_updates: int = 1

    @contextmanager
    def session(self, attempt: int = 1) -> Iterator[Session]:
        job = parse(Job, {"name": "toy", "stop": {"updates": self.stop_updates}, **self.job})
        setting = WorkerSetting(self.url, "", self.name, self.folder, self.folder, "learner", 0)
        with closing(Store.connect(self.url, self.name)) as store:
            ends = Connections(
                job=job,
                attempt=attempt,
                incarnation=0,
                store=store,
                board=Board(store),
                replay=ReplayLog(store),
                weights=self.published,  # type: ignore[arg-type]
                metrics=self.metrics,
                reporter=self.told,  # type: ignore[arg-type]
            )
            yield Session(setting, ends, self.policies)

    def run(self, updates: int, attempt: int = 1) -> None:
        """Train until so many updates were made over all lives."""
        self.stop_updates = updates
        with self.session(attempt) as session:
            session.run()

    @property
    def replay(self) -> ReplayLog:
        return ReplayLog(Store.connect(self.url, self.name))

    def push(self, *blocks: Episodes) -> None:
        for push in self.replay.push_many(blocks, threading.Event()):
            assert push.outcome.value == "pushed"

    def state(self) -> checkpoint.Checkpoint:
        return checkpoint.load(checkpoint.newest(self.folder))


def same(left: Mapping[str, Columns], right: Mapping[str, Columns]) -> None:
    assert left.keys() == right.keys()
    for policy in left:
        for name, tensor in left[policy].items():
            np.testing.assert_array_equal(right[policy][name], tensor, f"{policy} {name}")
