"""The store as the chart configures it, run for real: what its users may do, and what they may not."""

import base64
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import charts
import prompt_run
import pytest
import redis

from troupe.store import StoreError
from troupe.store.board import Board
from troupe.store.connection import Store, check_server
from troupe.store.lockstep import Place, Places
from troupe.store.replay import START, Outcome

SERVER = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(SERVER is None, reason="no redis-server with TLS on the PATH")

READY_SECONDS = 20.0
NEVER = threading.Event()


class Running:
    """A server with the chart's configuration, users and certificates, on a port of this machine."""

    def __init__(self, folder: Path, part: str) -> None:
        objects = charts.of("fault-tolerance")
        secret = charts.find(objects, "Secret", f"troupe-{part}")["data"]
        self.passwords = {key: base64.b64decode(value).decode() for key, value in secret.items()}
        for name, data in (
            ("etc/store", charts.find(objects, "ConfigMap", f"troupe-{part}")["data"]),
            ("etc/passwords", self.passwords),
            ("etc/troupe-tls", _plain(charts.find(objects, "Secret", "troupe-server-tls")["data"])),
            ("run/store", {}),
            ("data", {}),
        ):
            (folder / name).mkdir(parents=True)
            for file, text in data.items():
                (folder / name / file).write_text(text)
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (init,) = charts.pods(objects)[part]["spec"]["initContainers"]
        subprocess.run([init["command"][0], "-c", self._here(init["command"][2])], check=True)
        settings = folder / "etc/store/store.conf"
        settings.write_text(self._here(settings.read_text()).replace("6379", str(self.port)))
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen([SERVER, str(settings)], stdout=self._log)
        (probes,) = charts.pods(objects)[part]["spec"]["containers"]
        self._probe = self._here(probes["readinessProbe"]["exec"]["command"][2])
        self._probe_key = probes["env"][0]["valueFrom"]["secretKeyRef"]["key"]

    def _here(self, text: str) -> str:
        """The paths of a container as paths below our folder."""
        for path in ("/etc/", "/run/", "/data"):
            text = text.replace(path, f"{self._folder}{path}")
        return text

    def ready(self) -> bool:
        """What the container's own probe says."""
        password = self.passwords[self._probe_key]
        script = self._probe.replace("--tls", f"--tls -p {self.port}")
        given = {"REDISCLI_AUTH": password, "PATH": "/usr/bin:/bin"}
        return (
            subprocess.run(["sh", "-c", script], env=given, stderr=-3, check=False).returncode == 0
        )

    def wait(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self.ready():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def url(self, user: str, password: str | None = None) -> str:
        authority = self._folder / "etc/troupe-tls/ca.crt"
        secret = self.passwords.get(user, "") if password is None else password
        return f"rediss://{user}:{secret}@localhost:{self.port}?ssl_ca_certs={authority}"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()


def _plain(data: dict[str, str]) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("store"), "store")
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def run(server: Running) -> Iterator[dict[str, Store]]:
    """A place in the store that the driver made, as each user sees it."""
    made = {
        user: Store.connect(server.url(user), "doudizhu-1-abcd", create=user == "control")
        for user in ("control", "learner", "actor")
    }
    yield made
    for store in made.values():
        store.close()


def test_the_parts_of_a_run_can_do_their_work(run: dict[str, Store]) -> None:
    control, learner, actor = (Board(run[user]) for user in ("control", "learner", "actor"))
    control.put("launch", {"attempt": 1})
    assert actor.get("launch") == learner.get("launch") == {"attempt": 1}
    assert actor.incarnation("actor", 0) == 0
    actor.snapshot("actor-0", {"steps": 1.0})
    learner.snapshot("learner-0", {"loss": 1.0})
    assert control.snapshots().keys() == {"actor-0", "learner-0"}
    Places(run["actor"]).put(0, Place(turn=3, state=b"deals"))
    assert Places(run["learner"]).get(0) == Place(turn=3, state=b"deals")
    control.request_stop("told to stop")
    assert actor.stop_requested() == "told to stop"
    control.clear_stop()


def test_prompts_are_leased_answered_taken_and_acknowledged(run: dict[str, Store]) -> None:
    """The learner's side as the learner, the actors' as the actor."""
    lessons = prompt_run.Run(run["learner"])
    learner = lessons.log
    lessons.store = run["actor"]
    actor = lessons.actor()
    leases = prompt_run.got(actor.lease(2, 5))
    assert actor.heartbeat(leases) == []
    assert prompt_run.commit(actor, *leases) is Outcome.PUSHED
    (taken,) = learner.take(START, count=9, timeout=1)
    learner.sampled(taken.block.steps)
    learner.published("agent", 6)
    assert learner.acknowledge(taken.id) == 1


@pytest.mark.parametrize(
    "command",
    [
        ["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"], ["ACL", "LIST"], ["SHUTDOWN"],
        ["EVAL", "return 1", "0"], ["FUNCTION", "FLUSH"], ["FUNCTION", "DELETE", "troupe_1"],
        ["SET", "somebody:else", "1"], ["GET", "somebody:else"], ["REPLICAOF", "NO", "ONE"],
        ["MONITOR"], ["CLIENT", "KILL", "TYPE", "normal"],
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("user", ["control", "learner", "actor", "probe"])
def test_nobody_may_do_more(server: Running, user: str, command: list[str]) -> None:
    with redis.Redis.from_url(server.url(user), protocol=2) as client:
        assert client.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)


def test_an_actor_cannot_speak_for_the_run(run: dict[str, Store]) -> None:
    board = Board(run["actor"])
    for attempt in (
        lambda: board.request_stop("because I can"),
        lambda: board.put("launch", {"attempt": 99}),
        lambda: board.clear_stop(),
        lambda: run["actor"].renew(),
    ):
        with pytest.raises(StoreError):
            attempt()
    assert Board(run["control"]).stop_requested() is None


def test_strangers_are_refused(server: Running) -> None:
    for url in (
        server.url("default", "x"),
        server.url("actor", "wrong"),
        server.url("nobody", "x"),
    ):
        with pytest.raises(Exception, match="refuses the user or password"):
            check_server(url)
    plain = server.url("control").replace("rediss", "redis").partition("?")[0]
    with pytest.raises(StoreError, match="no answer"):
        check_server(plain)


def test_what_ray_knows_has_a_server_with_a_log(tmp_path: Path) -> None:
    running = Running(tmp_path, "gcs")
    try:
        running.wait()
        url = running.url("default", running.passwords["password"])
        with redis.Redis.from_url(url, protocol=2) as client:
            client.hset("RAY:cluster", "node", "alive")
            assert client.info("persistence")["aof_enabled"] == 1
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.config_get("*")
    finally:
        running.stop()
