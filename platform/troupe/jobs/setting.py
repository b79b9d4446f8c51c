"""What a worker is told when it starts, and the connections it opens from that."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from troupe.config import parse
from troupe.errors import FatalError, TroupeError
from troupe.jobs.spec import Job
from troupe.metrics import Metrics, Reporter
from troupe.store.board import Board
from troupe.store.connection import Store
from troupe.store.replay import ReplayLog
from troupe.weights.client import KEEP, WeightsClient
from troupe.weights.credentials import Tls

RUN = "TROUPE_RUN"
STORE_URL = "TROUPE_STORE_URL"
WEIGHTS_TOKEN = "TROUPE_WEIGHTS_TOKEN"
WEIGHTS_TLS = "TROUPE_WEIGHTS_TLS"
RUN_FOLDER = "TROUPE_RUN_FOLDER"
NODE_FOLDER = "TROUPE_NODE_FOLDER"
NODE_ADDRESS = "TROUPE_NODE_ADDRESS"
ATTEMPT = "TROUPE_ATTEMPT"
RELAYED = "TROUPE_RELAYED"
SERVED, RELAY = "served", "relay"
"""In the node's folder: where the weight server and the node's relay keep their versions."""
RELAY_ADDRESS = "relay.address"
"""In the node's folder: the file that says where the relay listens."""
LOOPBACK = "127.0.0.1"
_DIRECT = frozenset({"learner", "weights", "relay"})
"""Roles that speak to the weight server itself."""


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
    host: str = LOOPBACK
    """The node's address, as others reach it."""
    tls: Tls | None = field(default=None, repr=False)
    """Of the weight server, where it listens outside loopback."""
    attempt: int | None = None
    """At the run, that this worker belongs to; none belongs to whichever there is."""
    relayed: bool = False
    """Each node has a relay, from which its workers have their weights."""

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
            host=os.environ.get(NODE_ADDRESS, LOOPBACK),
            tls=Tls.from_text(os.environ.get(WEIGHTS_TLS, "")),
            attempt=int(os.environ[ATTEMPT]) if ATTEMPT in os.environ else None,
            relayed=RELAYED in os.environ,
        )

    @contextmanager
    def open(self) -> Iterator["Connections"]:
        """Connect to the run's store and weight server, and report metrics until the end.

        Raises:
            StoreError: the store is not reachable or holds another run.
            FatalError: a later attempt at the run has begun.
        """
        with ExitStack() as stack:
            store = Store.connect(self.store_url, self.run, create=False)
            stack.callback(store.close)
            board = Board(store)
            launch = board.get("launch")
            if launch is None:
                raise TroupeError(f"the store does not know the run {self.run}")
            attempt = int(str(launch["attempt"]))
            if self.attempt not in (None, attempt):
                raise FatalError(f"attempt {attempt} at the run has begun, {self.attempt} is over")
            job = parse(Job, launch["job"])
            metrics = Metrics()
            reporter = stack.enter_context(Reporter(metrics, board, self.name))
            by_relay = self.relayed and self.role not in _DIRECT
            weights = WeightsClient(
                partial(read_address, self.node_folder) if by_relay else server_address(board),
                token=self.weights_token,
                folder=self.node_folder / "weights",
                served=(self.node_folder / SERVED, self.node_folder / RELAY),
                tls=None if by_relay else self.tls,
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


def read_address(node_folder: Path) -> str | None:
    """Where a node's relay listens; none while it has not said so."""
    try:
        return (node_folder / RELAY_ADDRESS).read_text()
    except FileNotFoundError:
        return None


def server_address(board: Board) -> Callable[[], str | None]:
    """Tells where the weight server listens: what it said last, none while it has said nothing."""
    known: str | None = None

    def look() -> str | None:
        nonlocal known
        document = board.get("weights")
        if document is not None:  # a store that lost its memory has forgotten it
            known = str(document["address"])
        return known

    return look
