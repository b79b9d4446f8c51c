"""A run's ground on this machine: a Ray head, a store and folders of its own."""

import os
import secrets
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

from troupe.jobs import guardian as guard
from troupe.jobs import node, setting, stores
from troupe.jobs.cluster import LocalCluster, environment
from troupe.jobs.crew import PATHS
from troupe.jobs.spec import Job
from troupe.jobs.workers import RayWorker
from troupe.runs import RunFolder, writing

STOP_SECONDS = 7.0


class LocalGround:
    """See `Ground`."""

    stop_seconds = STOP_SECONDS

    def __init__(
        self, store_url: str, store_alive: Callable[[], bool], cluster: LocalCluster
    ) -> None:
        self.store_url = store_url
        self._store_alive = store_alive
        self._cluster = cluster

    def connect(self, stop: Event) -> bool:
        """See `Ground`."""
        return self._cluster.connect(stop)

    def parts(self) -> Mapping[str, Callable[[], bool]]:
        """See `Ground`."""
        return {"Ray": self._cluster.alive, "the store": self._store_alive}

    def worker(self, role: str, slot: int) -> RayWorker:
        """See `Ground`; it has the environment that Ray was started with."""
        return RayWorker(PATHS[role], role, slot, options={"num_cpus": 0}, variables={})

    def nodes(self) -> Collection[int]:
        """See `Ground`: all workers are on the weight server's node."""
        return ()


@contextmanager
def ground(job: Job, folder: RunFolder) -> Iterator[LocalGround]:
    """Start what a run's workers need; all is gone at the end, also when this process is killed.

    Raises:
        UserError, TroupeError: something that is needed is not to be had.
    """
    with ExitStack() as stack:
        scratch, shared = _scratch()
        exported = {
            **environment(),
            guard.MARK: secrets.token_hex(16),
            setting.RUN: folder.identity,
            setting.RUN_FOLDER: str(folder.path.absolute()),
            setting.NODE_FOLDER: str(shared),
            setting.WEIGHTS_TOKEN: secrets.token_urlsafe(32),
        }
        stack.callback(guard.Guardian(exported[guard.MARK], [scratch, shared]).finish)
        stack.enter_context(exporting(exported))
        url, store_alive = stores.open_for(job, scratch)
        stack.enter_context(exporting({setting.STORE_URL: url}))
        cluster = LocalCluster(scratch)
        stack.callback(cluster.disconnect)
        yield LocalGround(url, store_alive, cluster)


def _scratch() -> tuple[Path, Path]:
    """A folder on disk for sockets and logs, and one for weights, in memory where there is room."""
    with writing(Path(tempfile.gettempdir())):
        disk = Path(tempfile.mkdtemp(prefix="troupe-"))
        return disk, Path(tempfile.mkdtemp(prefix="troupe-", dir=node.memory()))


@contextmanager
def exporting(variables: Mapping[str, str]) -> Iterator[None]:
    """Put variables into the environment that started processes inherit, and take them out again."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
