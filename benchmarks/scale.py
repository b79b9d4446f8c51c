"""How many actors the control plane of one run carries on this machine, and what gives way first.

A store, a weight server, a learner that takes, acknowledges and publishes once a second, and a
launcher that looks at all snapshots are real and have a process each. Actors are simulated, as
`crowd.py` says, and blocks and weights are small: what is measured is connections, reports,
reserves and notices. Each number of actors gets a fresh control plane; the first has lines to hold,
and the number grows until one of them breaks. Then `troupe submit` is timed, as `submitting.py` says.
"""

import asyncio
import multiprocessing
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import crowd
import numpy as np
import psutil
import submitting
from report import Report

from troupe.jobs.spec import GameSettings, Job
from troupe.monitor import Monitor
from troupe.runs import RunFolder
from troupe.store import server
from troupe.store.board import Board
from troupe.store.connection import Store
from troupe.store.replay import START, Limits, ReplayLog
from troupe.weights.client import WeightsClient
from troupe.weights.manifest import CARRY
from troupe.weights.server import serve

LEVELS = (1_000, 2_000, 4_000)
RESERVE_MS, NOTICE_MS, DONE = 50.0, 1_000.0, 0.95
SUBMIT_SECONDS = 15.0
WARM_UP = 3.0
PUBLISH_SECONDS = 1.0
LOOK_SECONDS = 0.5
JOB = Job(name="scale", game=GameSettings(name="doudizhu"), algorithm={"name": "deep_monte_carlo"})
SPAWN = multiprocessing.get_context("spawn")
MEMORY = Path("/dev/shm")
RUN = "scale"


@dataclass(frozen=True)
class Part:
    """What a part of the control plane used."""

    cores: float
    """Of processor time, CPU-seconds a second."""
    memory_mb: float


@dataclass(frozen=True)
class Level:
    """What came of a number of actors."""

    actors: int
    connecting: float
    """Seconds until all were connected."""
    reserve_ms: float
    """99th percentile."""
    notice_ms: float
    """99th percentile, over all actors and versions, from the call of `publish`."""
    done: float
    """Reserves that were carried out, as a share of those that were due."""
    lag_ms: float
    """99th percentile of the simulating processes' own lateness, which is in both."""
    look_ms: float
    """99th percentile of the launcher's look at all snapshots."""
    broken_streams: int
    """Streams of notices that broke off and were opened again, connecting included."""
    parts: dict[str, Part]

    @property
    def broken(self) -> str:
        """The lines that are missed, in words; empty where all hold."""
        said = {
            f"p99 of a reserve {self.reserve_ms:,.0f} ms": self.reserve_ms > RESERVE_MS,
            f"p99 of a notice {self.notice_ms:,.0f} ms": self.notice_ms > NOTICE_MS,
            f"{self.done:.0%} of the reserves that were due": self.done < DONE,
        }
        return ", ".join(words for words, missed in said.items() if missed)


def main() -> int:
    """Measure, and print the table."""
    report = Report("scale", __doc__)
    report.parser.add_argument("--actors", type=int, nargs="+", default=LEVELS, metavar="N")
    report.parser.add_argument(
        "--block-seconds", type=float, default=1.0, help="between two blocks of an actor (1)"
    )
    report.parser.add_argument("--seconds", type=float, default=20.0, help="measured at each")
    options = report.arguments()
    levels: list[Level] = []
    for actors in options.actors:
        levels.append(measure(actors, options.seconds, options.block_seconds))
        add(report, levels[-1], lines=len(levels) == 1)
        if levels[-1].broken:
            break
    said = [first_limit(levels)]
    if missing := submitting.missing():
        said.append(f"Time from `submit` to the first update not measured: {missing}")
    else:
        seconds = submitting.first_update()
        report.row("from submit to the first update", seconds, "s", None, SUBMIT_SECONDS)
    status = report.finish({"said": said})
    print("\n".join(said))
    return status


def add(report: Report, level: Level, *, lines: bool) -> None:
    """The rows of one number of actors."""
    who = f"{level.actors:,} actors: "
    report.row(f"{who}reserve, p99", level.reserve_ms, "ms", None, RESERVE_MS if lines else None)
    report.row(f"{who}notice, p99", level.notice_ms, "ms", None, NOTICE_MS if lines else None)
    report.row(f"{who}reserves done of those due", level.done, "", DONE if lines else None)
    report.row(f"{who}lateness of the simulation itself, p99", level.lag_ms, "ms")
    report.row(f"{who}a look at all snapshots, p99", level.look_ms, "ms")
    report.row(f"{who}until all are connected", level.connecting, "s")
    report.row(f"{who}streams that broke off", level.broken_streams, "")
    for name, part in level.parts.items():
        report.row(f"{who}CPU, {name}", part.cores, "cores")
        if part.memory_mb:
            report.row(f"{who}memory, {name}", part.memory_mb, "MB")


def first_limit(levels: Sequence[Level]) -> str:
    """Which line broke first, and who had the most to do then."""
    last = levels[-1]
    if not last.broken:
        return f"No limit up to {last.actors:,} actors."
    used = ", ".join(f"{name} {part.cores:.2f}" for name, part in last.parts.items())
    return (
        f"The first limit is met at {last.actors:,} actors: {last.broken}. Of {psutil.cpu_count()} "
        f"cores were used: {used}."
    )


def measure(actors: int, seconds: float, block_seconds: float) -> Level:
    """Let so many actors live for a while."""
    memory = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory() as base,
        tempfile.TemporaryDirectory(dir=memory) as shared,
        control_plane(Path(base), Path(shared), block_seconds) as (place, parts),
        crowds(place, actors) as crowd_of,
    ):
        begun = time.monotonic()
        for one in crowd_of:
            one.hear()
        connecting = time.monotonic() - begun
        begin = time.monotonic() + WARM_UP
        for one in crowd_of:
            one.tell((begin, begin + seconds))
        pids = {name: [part.pid] for name, part in parts.items()}
        pids["simulated actors"] = [one.pid for one in crowd_of]
        usage = used(pids, begin, begin + seconds)
        seen = [one.hear() for one in crowd_of]
        published, looks = (parts[name].ask() for name in ("learner", "launcher"))
    at = [moment for moment in published.items() if begin <= moment[1] < begin + seconds]
    notices = [delay for one in seen for told in one.notices for delay in delays(at, told)]
    reserves = [
        took for one in seen for asked, took in one.reserves if begin <= asked < begin + seconds
    ]
    return Level(
        actors=actors,
        connecting=connecting,
        reserve_ms=p99(reserves),
        notice_ms=p99(notices),
        done=len(reserves) / (actors * seconds / block_seconds),
        lag_ms=p99([lag for one in seen for lag in one.lags]),
        look_ms=p99(looks),
        broken_streams=sum(one.broken for one in seen),
        parts=usage,
    )


def p99(seconds: Sequence[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return 1e3 * float(np.percentile(seconds, 99, method="higher"))


def delays(published: Sequence[tuple[int, float]], heard: Sequence[tuple[int, float]]):
    """Seconds from each version's publication until an actor heard of it, or of a newer one."""
    for version, moment in published:
        arrivals = (at for told, at in heard if told >= version)
        yield next(arrivals, float("inf")) - moment


def used(pids: Mapping[str, Sequence[int]], begin: float, end: float) -> dict[str, Part]:
    """What each part uses between two moments; `other programs` is the rest of the machine."""
    time.sleep(max(0.0, begin - time.monotonic()))
    busy, before = machine_seconds(), {name: cpu(own) for name, own in pids.items()}
    time.sleep(end - time.monotonic())
    parts = {
        name: Part((cpu(own) - before[name]) / (end - begin), memory_mb(own))
        for name, own in pids.items()
    }
    ours = sum(part.cores for part in parts.values())
    return {**parts, "other programs": Part((machine_seconds() - busy) / (end - begin) - ours, 0)}


def cpu(pids: Sequence[int]) -> float:
    """CPU seconds that processes have used."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def memory_mb(pids: Sequence[int]) -> float:
    """Their resident memory."""
    return sum(psutil.Process(pid).memory_info().rss for pid in pids) / 2**20


def machine_seconds() -> float:
    """CPU seconds that all programs of the machine have used."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


@contextmanager
def control_plane(
    base: Path, shared: Path, block_seconds: float
) -> Iterator[tuple[crowd.Place, dict[str, "Child"]]]:
    """A store, a weight server, a learner and a launcher, and where they are."""
    token, password = secrets.token_urlsafe(8), secrets.token_urlsafe(8)
    store = server.start(base, password=password, memory_mb=1024)
    try:
        Store.connect(store.url, RUN).close()
        with child(serve_weights, shared / "served", token) as weights:
            place = crowd.Place(RUN, store.url, weights.hear(), token, block_seconds)
            with (
                child(learn, place, shared / "node") as learner,
                child(launch, place, base / "runs") as launcher,
            ):
                learner.hear()
                yield (
                    place,
                    {
                        "store": store,
                        "weight server": weights,
                        "learner": learner,
                        "launcher": launcher,
                    },
                )
    finally:
        store.stop()


@contextmanager
def crowds(place: crowd.Place, actors: int) -> Iterator[list["Child"]]:
    """The processes of the simulated actors."""
    with child(crowd.play, place, actors) as players, child(crowd.watch, place, actors) as watchers:
        yield [players, watchers]


class Child:
    """A process of ours, and the pipe to it."""

    def __init__(self, target: Callable[..., None], arguments: Sequence[object]) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=target, args=(*arguments, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid

    def hear(self):
        """The next thing that it sends."""
        try:
            heard = self._pipe.recv()
        except EOFError:
            sys.exit(f"{self._process.name} has failed")
        if isinstance(heard, Exception):
            raise heard
        return heard

    def tell(self, what: object) -> None:
        """Send something."""
        self._pipe.send(what)

    def ask(self):
        """Tell it to finish; what it has to say."""
        self.tell("finish")
        return self.hear()

    def end(self) -> None:
        """See that it is gone."""
        self._process.terminate()
        self._process.join()
        self._pipe.close()


@contextmanager
def child(target: Callable[..., None], *arguments: object) -> Iterator[Child]:
    """Run `target` in a process of its own; its last argument is its end of a pipe."""
    made = Child(target, arguments)
    try:
        yield made
    finally:
        made.end()


def serve_weights(folder: Path, token: str, pipe: Connection) -> None:
    """The weight server's process: tells its address, ends when its pipe is closed."""

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), stop.set)
        await serve(folder, token=token, on_ready=pipe.send, stop=stop)

    asyncio.run(run())


def learn(place: crowd.Place, folder: Path, pipe: Connection) -> None:
    """The learner's process: takes all there is, acknowledges and publishes once a second.

    Tells when each version was published.
    """
    log = ReplayLog(Store.connect(place.store, place.run))
    log.configure(Limits(capacity_steps=10**9, max_staleness=10**9, retained_bytes=512 * 2**20))
    log.restore(samples=0, versions={"policy": 0}, attempt=1)
    weights = WeightsClient(lambda: place.weights, token=place.token, folder=folder, attempt=1)
    tensors = {"layer": np.zeros(CARRY, np.float32)}  # too large to come with its notice
    published, position, due = {}, START, time.monotonic()
    pipe.send("ready")
    while not pipe.poll():
        if time.monotonic() >= due:
            version = len(published) + 1
            published[version] = time.monotonic()
            weights.publish("policy", version, tensors)
            log.published("policy", version)
            if position != START:
                log.acknowledge(position)
            due += PUBLISH_SECONDS
        if taken := log.take(position, count=256, timeout=0.1):
            position = taken[-1].id
            log.sampled(sum(one.block.steps for one in taken))
    pipe.send(published)


def launch(place: crowd.Place, runs: Path, pipe: Connection) -> None:
    """The launcher's process: looks at all snapshots twice a second. Tells how long each look took."""
    board, looks = Board(Store.connect(place.store, place.run)), []
    with Monitor(board, RunFolder.create(runs, JOB), JOB) as monitor:
        while not pipe.poll(LOOK_SECONDS):
            begun = time.monotonic()
            monitor.poll()
            looks.append(time.monotonic() - begun)
    pipe.send(looks)


if __name__ == "__main__":
    sys.exit(main())
