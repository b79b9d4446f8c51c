"""A run's ground on a Ray cluster that is there already: this process is its driver, on one of its nodes."""

import os
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

from troupe.errors import UserError
from troupe.jobs import guardian as guard
from troupe.jobs import setting, stores
from troupe.jobs.cluster import TUNED, own_address
from troupe.jobs.crew import PATHS, RELAY
from troupe.jobs.places import Places
from troupe.jobs.spec import Job
from troupe.jobs.workers import RayWorker
from troupe.runs import RunFolder, writing
from troupe.weights.certificates import self_signed
from troupe.weights.credentials import is_loopback

NAME = "troupe"
"""What the certificate of a run calls its servers: which node they will be on is not known before."""
_LOOK_SECONDS = 2.0
_KNOCK_SECONDS = 5.0


class JoinedGround:
    """See `Ground`."""

    def __init__(
        self,
        job: Job,
        store_url: str,
        store_alive: Callable[[], bool],
        variables: Mapping[str, str],
        places: Places,
    ) -> None:
        self.store_url = store_url
        self.stop_seconds = job.cluster.grace
        self._store_alive = store_alive
        self._variables = variables
        self._places = places
        self._due = 0.0
        self._numbers: dict[str, int] = {}
        """Of all nodes that were ever seen, by Ray's name for them."""
        self._alive: list[int] = []

    def connect(self, stop: Event) -> bool:
        """See `Ground`."""
        return not stop.is_set()

    def parts(self) -> Mapping[str, Callable[[], bool]]:
        """See `Ground`: without Ray this process would not be there either."""
        return {"the store": self._store_alive}

    def worker(self, role: str, slot: int) -> RayWorker:
        """See `Ground`; it waits where there is no room for it yet."""
        if role == RELAY:
            name = next(name for name, number in self._numbers.items() if number == slot)
            options = self._places.on_node(name)
        else:
            options = self._places.options(role, slot)
        return RayWorker(PATHS[role], role, slot, options=options, variables=self._variables)

    def nodes(self) -> Collection[int]:
        """See `Ground`: each that actors may be on."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _LOOK_SECONDS
            names = self._places.nodes_for_actors()
            self._alive = [self._numbers.setdefault(name, len(self._numbers)) for name in names]
        return self._alive


@contextmanager
def ground(job: Job, folder: RunFolder, attempt: int, address: str) -> Iterator[JoinedGround]:
    """Join the cluster at an address, or the one that this node belongs to where that is `auto`.

    All that the run has in the cluster ends with this block, or with this process however it ends.

    Raises:
        UserError: there is no such cluster, it does not let us in or is of another version, or
            no node of it has what a worker asks for.
    """
    with ExitStack() as stack:
        with writing(Path(tempfile.gettempdir())):
            scratch = Path(tempfile.mkdtemp(prefix="troupe-"))
        mark = secrets.token_hex(16)
        stack.callback(guard.Guardian(mark, [scratch]).finish)
        stack.enter_context(_joined(address))
        places = Places.reserve(job)
        here = own_address()
        tls = None if is_loopback(here) else self_signed((NAME, here))
        url, alive = stores.open_for(job, scratch, host=here, tls=tls)
        variables = {
            setting.RUN: folder.identity,
            setting.RUN_FOLDER: str(folder.path.absolute()),
            setting.ATTEMPT: str(attempt),
            setting.STORE_URL: url,
            setting.WEIGHTS_TOKEN: secrets.token_urlsafe(32),
            setting.WEIGHTS_TLS: "" if tls is None else tls.to_text(),
            setting.RELAYED: "1",
        }
        yield JoinedGround(job, url, alive, variables, places)


@contextmanager
def _joined(address: str) -> Iterator[None]:
    if address.startswith("ray://"):
        raise UserError(
            f"--ray: {address}: a run's launcher belongs into the cluster; send it there with "
            "`troupe submit JOB --to http://HEAD:8265`"
        )
    _knock(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
    import ray

    ours = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": TUNED},
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(f"--ray: {address}: {_explain(str(error))}") from None
    signal.signal(signal.SIGTERM, ours)  # Ray's own ends us without a word to the learner
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See that somebody answers at an address, where it is one: Ray itself waits for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except OSError as error:
        raise UserError(f"--ray: {address}: {_explain(str(error))}") from None


def _explain(error: str) -> str:
    """What keeps us from joining, and what to do about it, in one line."""
    told = " ".join(error.split())
    if "Version mismatch" in told:
        return f"{told}; use the cluster's own versions here, such as its image"
    if "token" in told.lower():
        return (
            "the cluster wants a token, or another one; give it in RAY_AUTH_TOKEN or "
            f"RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token ({told[:200]})"
        )
    return (
        f"no Ray cluster answers there: {told[:200]}; is it running, and this machine part of it?"
    )
