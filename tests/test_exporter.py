"""What Prometheus reads of a run: the live view's numbers, through its own parsers."""

import json
import math
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from troupe import catalogue, cli, exporter
from troupe.errors import UserError
from troupe.exporter import Exporter
from troupe.exposition import UNLISTED
from troupe.frame import Frame
from troupe.jobs.spec import GameSettings, Job
from troupe.metrics import Metrics, Reporter
from troupe.monitor import Monitor
from troupe.runs import RunFolder
from troupe.store import server
from troupe.store.board import Board
from troupe.store.connection import Store

DOCS = Path(__file__).parents[1] / "docs"
JOB = Job(
    name="doudizhu",
    game=GameSettings(name="doudizhu"),
    algorithm={"name": "deep_monte_carlo"},
)


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Frame:
    """What the monitor makes of three processes that report through a real store."""
    folder = tmp_path_factory.mktemp("run")
    running = server.start(folder, password="secret", memory_mb=16)
    try:
        store = Store.connect(running.url, "run")
        board = Board(store)
        run = RunFolder.create(folder, JOB)
        with Monitor(board, run, JOB) as monitor:
            for process, metrics in processes().items():
                Reporter(metrics, board, process).beat()
            seen = monitor.poll()
        store.close()
    finally:
        running.stop()
    return seen


def processes() -> dict[str, Metrics]:
    told = {name: Metrics() for name in ("actor-0", "actor-1", "learner-0", "evaluator-0")}
    for slot in (0, 1):
        told[f"actor-{slot}"].add("decisions", 500 + slot)
        told[f"actor-{slot}"].add("blocked_seconds", 0.25)
        told[f"actor-{slot}"].set("version/landlord", 6 + 2 * slot)
        told[f"actor-{slot}"].set("waiting_for", "nobody")
    for name, value in {"steps_trained": 640.0, "updates": 9, "updates/landlord": 9}.items():
        told["learner-0"].set(name, value)
    told["learner-0"].set("loss/landlord", math.nan)
    told["learner-0"].set("own-idea/landlord", 3.0)
    told["learner-0"].add("unheard.of", 2)
    told["evaluator-0"].set("eval/runs/old-1/wp", 0.75)
    return told


@pytest.fixture
def served() -> Iterator[Exporter]:
    with Exporter("127.0.0.1", 0) as served:
        yield served


def get(served: Exporter, path: str, **headers: str) -> HTTPResponse:
    address = served.url.removeprefix("http://").removesuffix(exporter.METRICS)
    connection = HTTPConnection(address, timeout=5)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def scrape(served: Exporter) -> dict[str, Metric]:
    response = get(served, "/metrics")
    assert response.status == 200
    return {family.name: family for family in parse_text(response.read().decode())}


def values(families: dict[str, Metric]) -> dict[tuple[str, ...], float]:
    """By name and labels, the run left out."""
    return {
        (sample.name, *(v for k, v in sample.labels.items() if k != "run")): sample.value
        for family in families.values()
        for sample in family.samples
    }


def test_a_scrape_has_the_live_views_numbers(served: Exporter, frame: Frame):
    assert scrape(served) == {}
    served.show(frame)
    families = scrape(served)
    told = values(families)
    assert told["troupe_decisions_total",] == frame.decisions == 1001
    assert told["troupe_workers",] == frame.workers == 4
    assert told["troupe_resident_memory_bytes",] == frame.memory_mb * 2**20 > 0
    assert told["troupe_frame_timestamp_seconds",] == frame.time
    assert told["troupe_actor_decisions_total",] == 1001
    assert told["troupe_actor_blocked_seconds_total",] == 0.5
    assert told["troupe_actor_version", "landlord"] == 7
    assert told["troupe_learner_policy_updates", "landlord"] == 9
    assert told["troupe_evaluator_wp_ratio", "runs/old-1"] == 0.75
    assert math.isnan(told["troupe_learner_loss", "landlord"])
    assert len(told) == len(frame.scalars()) + 3  # and time, step, attempt
    runs = {s.labels["run"] for family in families.values() for s in family.samples}
    assert runs == {"doudizhu-1"}
    assert families["troupe_actor_decisions"].type == "counter"
    assert "0 to 1" not in families["troupe_evaluator_wp_ratio"].documentation
    assert families["troupe_learner_steps_trained"].documentation.endswith("; in steps")


def test_what_has_no_row_is_told_as_it_is(served: Exporter, frame: Frame):
    served.show(frame)
    families = scrape(served)
    told = values(families)
    assert told["troupe_learner_unheard_of_total",] == 2
    assert families["troupe_learner_unheard_of"].documentation == UNLISTED
    assert told["troupe_learner_own_idea", "landlord"] == 3
    twice = {**frame.reported, "learner/own.idea/landlord": 4.0}
    served.show(replace(frame, reported=twice))
    assert values(scrape(served)) == pytest.approx(told, nan_ok=True)


def test_openmetrics_is_spoken_to_those_who_ask_for_it(served: Exporter, frame: Frame):
    served.show(frame)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    response = get(served, "/metrics", Accept=accept)
    assert response.getheader("Content-Type", "").startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(response.read().decode())}
    assert values(families) == pytest.approx(values(scrape(served)), nan_ok=True)
    assert families["troupe_actor_resident_memory_bytes"].unit == "bytes"


def test_health_is_for_everybody_and_metrics_for_who_has_the_token(frame: Frame):
    with Exporter("127.0.0.1", 0, "secret") as served:
        served.show(frame)
        assert get(served, "/healthz").read() == b"ok\n"
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            refused = get(served, "/metrics", **wrong)
            assert (refused.status, refused.getheader("WWW-Authenticate")) == (401, "Bearer")
            assert b"troupe_" not in refused.read()
        assert get(served, "/metrics", Authorization="Bearer secret").status == 200
        assert get(served, "/", Authorization="Bearer secret").status == 404


def test_off_loopback_a_token_is_needed():
    with pytest.raises(UserError, match=r"--metrics-host: 0\.0\.0\.0 .*TROUPE_METRICS_TOKEN"):
        Exporter("0.0.0.0", 0)
    with Exporter("0.0.0.0", 0, "secret") as served:
        assert get(served, "/metrics").status == 401


def test_callers_that_say_nothing_hold_up_nobody(served: Exporter, frame: Frame):
    port = int(served.url.rpartition(":")[2].removesuffix(exporter.METRICS))
    with ExitStack() as silent:
        for _ in range(exporter.CALLERS - 1):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        served.show(frame)
        assert scrape(served)


def test_a_port_in_use_is_one_line_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    job = tmp_path / "job.yaml"
    job.write_text(
        json.dumps(
            {"name": "x", "game": {"name": "doudizhu"}, "algorithm": {"name": "deep_monte_carlo"}}
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = ["train", str(job), "--runs", str(tmp_path / "runs"), "--metrics-port", port]
        assert cli.main(command) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        f"troupe: --metrics-port: cannot listen on 127.0.0.1:{port}: Address already in use; give "
        "another port, 0 takes a free one\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UserError, match=r"pip install 'troupe\[prometheus\]'"):
        Exporter("127.0.0.1", 0)


def test_the_page_has_the_table():
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert page == catalogue.renewed(page), "run: python -m troupe.catalogue docs/metrics.md"
    for table in catalogue.tables():
        assert table in page


def test_no_two_rows_have_one_name_at_prometheus():
    roles = {row.role for row in catalogue.ROWS} - {catalogue.EVERY, catalogue.DERIVED}
    named = [
        row.exported(role)
        for row in catalogue.ROWS
        for role in (sorted(roles) if row.role == catalogue.EVERY else [row.role])
    ]
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("name", "exported", "labels"),
    [
        ("seconds_left", "troupe_remaining_seconds", {}),
        ("queue_fill", "troupe_queue_fill_ratio", {}),
        ("weights/bytes_sent", "troupe_weights_sent_bytes_total", {}),
        ("weights/outages", "troupe_weights_outages_total", {}),
        ("learner/value_loss/agent", "troupe_learner_value_loss", {"policy": "agent"}),
        ("learner/updates", "troupe_learner_updates", {}),
        ("learner/reward/exact/agent", "troupe_learner_reward_component", {"component": "exact", "policy": "agent"}),
        ("evaluator/eval/reward/exact_low", "troupe_evaluator_reward_component_low", {"component": "exact"}),
        ("evaluator/eval/reward_low", "troupe_evaluator_reward_low", {}),
    ],
)  # fmt: skip
def test_names_and_labels(name: str, exported: str, labels: dict[str, str]):
    found = catalogue.find(name)
    assert found is not None
    assert (found.exported, found.labels) == (exported, labels)
