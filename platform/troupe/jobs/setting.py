"""What a worker is told when it starts, and the connections it opens from that."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from troupe.config import parse
from troupe.errors import TroupeError
from troupe.jobs.spec import Job
from troupe.metrics import Metrics, Reporter
from troupe.store.board import Board
from troupe.store.connection import Store
from troupe.store.replay import ReplayLog
from troupe.weights.client import KEEP, WeightsClient

RUN = "TROUPE_RUN"
STORE_URL = "TROUPE_STORE_URL"
WEIGHTS_TOKEN = "TROUPE_WEIGHTS_TOKEN"
RUN_FOLDER = "TROUPE_RUN_FOLDER"
NODE_FOLDER = "TROUPE_NODE_FOLDER"
SERVED = "served"
"""In the node's folder: where the weight server keeps its versions."""


@dataclass(frozen=True, slots=True)
class WorkerSetting:
    """Where a worker belongs. Everything else it needs lies in the store, by key."""

    store_url: str = field(repr=False)
    """The store's address, with its password."""
    weights_token: str = field(repr=False)
    run: str
    """The run's identity, which prefixes its keys in the store."""
    run_folder: Path
    node_folder: Path
    """Memory-backed folder that the workers of one node share."""
    role: str
    slot: int

    @property
    def name(self) -> str:
        """Role and slot, such as `actor-3`."""
        return f"{self.role}-{self.slot}"

    @classmethod
    def from_environment(cls, role: str, slot: int) -> "WorkerSetting":
        """What the launcher exported for every process of the run."""
        return cls(
            store_url=os.environ[STORE_URL],
            weights_token=os.environ[WEIGHTS_TOKEN],
            run=os.environ[RUN],
            run_folder=Path(os.environ[RUN_FOLDER]),
            node_folder=Path(os.environ[NODE_FOLDER]),
            role=role,
            slot=slot,
        )

    @contextmanager
    def open(self) -> Iterator["Connections"]:
        """Connect to the run's store and weight server, and report metrics until the end.

        Raises:
            StoreError: the store is not reachable or holds another run.
        """
        with ExitStack() as stack:
            store = Store.connect(self.store_url, self.run, create=False)
            stack.callback(store.close)
            board = Board(store)
            launch = board.get("launch")
            if launch is None:
                raise TroupeError(f"the store does not know the run {self.run}")
            attempt = int(str(launch["attempt"]))
            job = parse(Job, launch["job"])
            metrics = Metrics()
            reporter = stack.enter_context(Reporter(metrics, board, self.name))
            weights = WeightsClient(
                _whereabouts(board),
                token=self.weights_token,
                folder=self.node_folder / "weights",
                served=self.node_folder / SERVED,
                attempt=attempt,
                keep=KEEP + job.lag,
            )
            stack.callback(weights.close)
            yield Connections(
                job=job,
                attempt=attempt,
                incarnation=board.incarnation(self.role, self.slot),
                store=store,
                board=board,
                replay=ReplayLog(store, self.slot % job.learner.count),
                weights=weights,
                metrics=metrics,
                reporter=reporter,
            )


@dataclass(frozen=True, slots=True)
class Connections:
    """A worker's open ends."""

    job: Job
    attempt: int
    incarnation: int
    store: Store
    board: Board
    replay: ReplayLog
    """The shard of this worker: each rank of the learner has one, and actors are dealt out to them."""
    weights: WeightsClient
    metrics: Metrics
    reporter: Reporter


def _whereabouts(board: Board) -> Callable[[], str | None]:
    """Tells where the weight server listens: what it said last, none while it has said nothing."""
    known: str | None = None

    def look() -> str | None:
        nonlocal known
        document = board.get("weights")
        if document is not None:  # a store that lost its memory has forgotten it
            known = str(document["address"])
        return known

    return look
