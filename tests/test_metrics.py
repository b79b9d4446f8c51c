"""Counters, gauges, and their way to the board."""

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as StoreGone

from troupe.errors import TroupeError
from troupe.metrics import COUNTERS, Metrics, Reporter, Value
from troupe.store import server
from troupe.store.board import Board
from troupe.store.connection import Store
from troupe.track import Track


class FakeBoard:
    """A board in memory that can be out of reach."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Mapping[str, Value]]] = []
        self.stopping = False
        self.outage: Exception | None = None
        self.beaten = threading.Event()

    def snapshot(self, process: str, values: Mapping[str, Value]) -> None:
        if self.outage:
            raise self.outage
        self.seen.append((process, values))
        self.beaten.set()

    def stop_requested(self) -> str | None:
        return "enough" if self.stopping else None


def test_counters_add_up_and_gauges_keep_the_newest():
    metrics = Metrics()
    metrics.add("decisions", 256)
    metrics.add("decisions", 256)
    metrics.add("blocks")
    metrics.set("staleness", 2.5)
    metrics.set("staleness", 0.5)
    assert metrics.snapshot() == {"decisions": 512, "blocks": 1, "staleness": 0.5}
    assert sorted(metrics.counters()) == ["blocks", "decisions"]


def test_threads_lose_no_count():
    metrics = Metrics()

    def count() -> None:
        for _ in range(20_000):
            metrics.add("decisions")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.snapshot()["decisions"] == 80_000


def test_snapshot_tells_what_the_system_knows():
    metrics = Metrics()
    metrics.add("decisions", 7)
    metrics.set("waiting_for", "the learner")
    values = Reporter(metrics, FakeBoard(), "actor-0").values()
    assert values["decisions"] == 7
    assert values["waiting_for"] == "the learner"
    assert values[COUNTERS] == "decisions"
    assert 1 < float(values["rss_mb"]) < 100_000
    assert float(values["cpu_seconds"]) > 0
    assert float(values["uptime"]) >= 0
    assert float(values["started"]) > 1e9


def test_reporter_beats_by_itself_and_once_more_at_the_end():
    board, metrics = FakeBoard(), Metrics()
    with Reporter(metrics, board, "actor-0", every=0.001):
        assert board.beaten.wait(10)
        metrics.add("decisions", 3)
    process, values = board.seen[-1]
    assert process == "actor-0"
    assert values["decisions"] == 3


def test_reporter_hears_that_the_run_should_stop():
    board = FakeBoard()
    reporter = Reporter(Metrics(), board, "actor-0")
    reporter.beat()
    assert not reporter.stop.is_set()
    board.stopping = True
    reporter.beat()
    assert reporter.stop.is_set()


@pytest.mark.parametrize("outage", [StoreGone("gone"), TroupeError("gone"), TimeoutError()])
def test_an_outage_of_the_store_is_counted_and_outlived(outage: Exception):
    board, metrics = FakeBoard(), Metrics()
    reporter = Reporter(metrics, board, "actor-0")
    metrics.add("decisions", 5)
    board.outage = outage
    reporter.beat()
    reporter.beat()
    board.outage = None
    reporter.beat()
    ((_, values),) = board.seen
    assert values["outages"] == 2
    assert values["decisions"] == 5


def test_a_process_does_not_wait_at_its_end_for_a_store_that_is_gone():
    board = FakeBoard()
    board.outage = StoreGone("gone")
    metrics = Metrics()
    with Reporter(metrics, board, "actor-0", every=3600) as reporter:
        reporter.beat()
    assert metrics.snapshot()["outages"] == 1


def test_snapshots_go_through_a_real_store(tmp_path: Path):
    running = server.start(tmp_path, password="secret", memory_mb=32)
    store = Store.connect(running.url, "run-1", timeout=1.0)
    board, metrics = Board(store), Metrics()
    metrics.add("decisions", 12)
    metrics.set("waiting_for", "room")
    reporter = Reporter(metrics, board, "actor-0")
    reporter.beat()
    track = Track()
    track.observe(board.snapshots()["actor-0"], now=0.0)
    assert track.totals() == {"decisions": 12}
    assert track.waiting_for == "room"
    assert track.gauges["rss_mb"] > 1
    assert not reporter.stop.is_set()
    board.request_stop("enough")
    reporter.beat()
    assert reporter.stop.is_set()
    store.close()
    running.stop()


def test_importing_metrics_is_light():
    code = "import sys, troupe.metrics; print([m for m in sys.modules if m in {'torch','ray','matplotlib','numpy'}])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
