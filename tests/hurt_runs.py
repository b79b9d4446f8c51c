"""Runs without Ray whose workers are killed: each is a process of its own, in a real store."""

import copy
import random
import time
from collections.abc import Mapping
from pathlib import Path

from ranks_crew import PATIENCE, Crew

from troupe import checkpoint
from troupe.checkpoint import Checkpoint
from troupe.jobs.load import put
from troupe.store.connection import Store


class Runs:
    """Runs of one job, each with what is put over it."""

    def __init__(self, url: str, folder: Path, job: Mapping[str, object], *overrides: str) -> None:
        self.url, self.folder = url, folder
        self._job, self._overrides = job, overrides

    def crew(self, name: str, *overrides: str) -> Crew:
        return Crew(self.url, self.folder, name, data(self._job, *self._overrides, *overrides))

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


def data(job: Mapping[str, object], *overrides: str) -> dict[str, object]:
    """A job's data with overrides, as `troupe train` takes them."""
    copied = copy.deepcopy(dict(job))
    for override in overrides:
        put(copied, override)
    return copied


def trained_on(crew: Crew) -> None:
    """Wait for a checkpoint."""
    deadline = time.monotonic() + PATIENCE
    while not list((crew.run / "checkpoints").glob("step-*")):
        assert not crew.look_after(), "done before it was saved"
        assert time.monotonic() < deadline, crew.told()
        time.sleep(0.01)
