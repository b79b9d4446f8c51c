"""Runs sent to a real Ray cluster, with its dashboard and a token, over connections that break."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from ray_nodes import RayNodes

from troupe.cli import main
from troupe.jobs.targets import RunState
from troupe.jobs.targets.following import Said, follow, listen
from troupe.jobs.targets.opening import open_target
from troupe.runs import RunFolder

pytest.importorskip("aiohttp", reason="the dashboard of Ray, ray[default], is not installed")

JOB = {
    "name": "small",
    "environment": {"name": "CartPole-v1"},
    "algorithm": {"name": "ppo", "epochs": 1},
    "actors": {"count": 1, "environments": 2, "rollout": 16},
    "checkpoint": {"every": 1},
    "evaluation": {"every": 0},
}
PATIENCE = 150.0


class Wire:
    """A way to the dashboard that can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._there = (host, port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> int:
        """Break all connections; how many there were."""
        broken = [s for s in self._open if s.fileno() >= 0]
        for connection in broken:
            _end(connection)
        self._open.clear()
        return len(broken)

    def close(self) -> None:
        _end(self._server)  # a mere close leaves whoever waits for connections waiting
        self.cut()

    def _serve(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
                there = socket.create_connection(self._there)
            except OSError:
                return
            self._open += [here, there]
            for pair in ((here, there), (there, here)):
                threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(4096):
            other.sendall(data)
    _end(one)
    _end(other)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    cluster = RayNodes(cpus=2, dashboard=True)
    yield cluster
    cluster.close()


@pytest.fixture
def wire(nodes: RayNodes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", nodes.token)
    made = Wire(nodes.host, nodes.http_port)
    yield made
    made.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.timeout(500)
def test_a_run_is_sent_followed_stopped_resumed_and_removed(
    wire: Wire, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, to = str(place / "runs"), ["--to", wire.url]
    assert main(["submit", "job.yaml", *to, "--runs", runs, "--json"]) == 0
    assert told(capsys)["run"] == "small-1"
    assert main(["submit", "job.yaml", *to, "--runs", runs, "--name", "small-1"]) == 2
    assert "has a run small-1 already" in capsys.readouterr().err

    heard: list[Said] = []
    ends: list[RunState] = []
    target = open_target(wire.url)
    listener = threading.Thread(
        target=lambda: ends.append(follow(target, "small-1", heard.append)), daemon=True
    )
    listener.start()
    cuts = 0

    def trained() -> bool:
        nonlocal cuts
        cuts += wire.cut()
        return "step " in target.progress("small-1")

    until(lambda: bool(heard))
    until(trained)
    assert main(["status", "small-1", *to, "--json"]) == 0
    state = told(capsys)
    assert (state["state"], state["attempt"]) == ("running", 1)
    assert "step " in str(state["progress"])

    assert main(["stop", "small-1", *to, "--json"]) == 0
    assert told(capsys)["state"] == "stopped"
    folder = RunFolder(place / "runs" / "small-1")
    assert folder.status().state == "stopped"
    saved = sorted(folder.checkpoints.glob("step-*"))[-1]
    listener.join(PATIENCE)
    assert ends[0].state == "stopped"
    assert cuts > 0
    whole: list[Said] = []
    listen(target, "small-1", whole.append)
    assert [said.text for said in heard] == [said.text for said in whole]
    assert any("training begins" in said.text for said in heard)

    step = int(saved.name.removeprefix("step-"))
    assert main(["resume", "small-1", f"stop.steps={step + 300}", *to, "--json"]) == 0
    assert told(capsys)["attempt"] == 2
    assert main(["status", "small-1", *to, "--watch"]) == 0
    assert "done" in capsys.readouterr().out
    assert folder.attempts == 2
    assert folder.status().state == "done"

    assert main(["down", "small-1", *to, "--json"]) == 0
    capsys.readouterr()
    assert main(["list", *to, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert folder.checkpoints.is_dir()


@pytest.mark.timeout(300)
def test_a_run_that_failed_is_told_from_a_command_that_failed(
    wire: Wire, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["job.yaml", "store.url=redis://127.0.0.1:1", "--to", wire.url, "--name", "lost"]
    assert main(["submit", *arguments, "--runs", str(place / "runs"), "--follow"]) == 3
    assert "no answer" in capsys.readouterr().out
    assert main(["status", "lost", "--to", wire.url, "--json"]) == 3
    state = told(capsys)
    assert state["state"] == "failed"
    assert str(state["message"]).startswith("troupe: store at 127.0.0.1:1: no answer")
    wire.close()
    assert main(["status", "lost", "--to", wire.url]) == 1
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token", "says"), [("", "wants a token"), ("f" * 32, "refuses this token")]
)
def test_who_has_no_token_or_a_wrong_one_is_told_so(
    nodes: RayNodes,
    place: Path,
    token: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    for command in (["list"], ["submit", "job.yaml", "--runs", str(place)], ["stop", "small-1"]):
        assert main([*command, "--to", nodes.http]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_what_no_node_has_is_said_before_anything_is_sent(
    wire: Wire, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ["--to", wire.url, "--runs", str(place / "runs")]
    assert main(["submit", "job.yaml", "cluster.actor.resources={a: 1}", *to]) == 2
    assert "cluster.actor: asks for CPU 1, a 1" in capsys.readouterr().err
    assert main(["submit", "job.yaml", "--to", wire.url]) == 2
    assert "--runs: missing" in capsys.readouterr().err
