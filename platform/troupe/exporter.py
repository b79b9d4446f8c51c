"""Prometheus's door to a run: a small HTTP server that shows the newest frame.

It runs in threads of the launcher and reads only what the launcher has looked at already, so a
scraper, however slow, keeps nobody waiting.
"""

import hmac
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from troupe.errors import UserError
from troupe.frame import Frame
from troupe.weights.credentials import is_loopback

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

METRICS, HEALTH = "/metrics", "/healthz"
TOKEN = "TROUPE_METRICS_TOKEN"
CLIENT_SECONDS = 10.0
"""A caller that neither sends nor reads for so long is left."""
CALLERS = 16
"""That are answered at once; others are turned away."""
_LOOK_SECONDS = 0.1
"""Between two looks at whether the exporter was closed."""
Request: TypeAlias = socket.socket | tuple[bytes, socket.socket]

_PLAIN = "text/plain; charset=utf-8"


class Exporter:
    """Shows a run to Prometheus: a view, as `live.View` says, and a context manager.

    `/metrics` has the newest frame, and nothing before the first; where there is a token, only its
    bearer gets it. `/healthz` says `ok` to anybody for as long as the launcher lives.
    """

    def __init__(self, host: str, port: int, token: str = "") -> None:
        """Listen from now on; callers are answered inside the context. Port 0 takes a free one.

        Raises:
            UserError: the port cannot be listened on, `host` is not loopback and there is no token,
                or `prometheus-client` is not installed.
        """
        if not token and not is_loopback(host):
            raise UserError(
                f"--metrics-host: {host} is reachable from other machines; export a secret as "
                f"{TOKEN}, which scrapers send as their bearer token"
            )
        self.frame: Frame | None = None
        self._host = host
        self._server = _Server(host, port, token, _registry(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_SECONDS,), name="exporter", daemon=True
        )

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._server.server_address[1]}{METRICS}"

    def __enter__(self) -> "Exporter":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def show(self, frame: Frame) -> None:
        """Show this frame from now on."""
        self.frame = frame

    def event(self, text: str) -> None:
        """Do nothing: events are for people."""


def _registry(exporter: Exporter) -> "CollectorRegistry":
    try:
        from prometheus_client import CollectorRegistry

        from troupe.exposition import FrameCollector
    except ImportError:
        raise UserError(
            "--metrics-port: needs prometheus-client; pip install 'troupe[prometheus]'"
        ) from None
    registry = CollectorRegistry()
    registry.register(FrameCollector(exporter))
    return registry


class _Server(socketserver.ThreadingTCPServer):
    """Answers each caller in a thread of its own, up to a number of them."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, token: str, registry: "CollectorRegistry") -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.token = token
        self.registry = registry
        self._places = threading.BoundedSemaphore(CALLERS)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UserError(
                f"--metrics-port: cannot listen on {host}:{port}: {reason}; give another port, "
                "0 takes a free one"
            ) from None

    def process_request(self, request: Request, client_address: object) -> None:
        if not self._places.acquire(blocking=False):
            return self.shutdown_request(request)
        return super().process_request(request, client_address)

    def process_request_thread(self, request: Request, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Request, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # that is a caller who has left
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    server_version = "troupe"
    sys_version = ""
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == HEALTH:
            self._answer(HTTPStatus.OK, b"ok\n", _PLAIN)
        elif path != METRICS:
            self._answer(HTTPStatus.NOT_FOUND, f"see {METRICS}\n".encode(), _PLAIN)
        elif not self._may_read():
            self._answer(HTTPStatus.UNAUTHORIZED, b"the bearer token is missing or wrong\n", _PLAIN)
        else:
            self._metrics()

    def _may_read(self) -> bool:
        """Whether the caller has the token, if there is one; takes as long for any wrong one."""
        sent = self.headers.get("Authorization", "").encode()
        wanted = f"Bearer {self.server.token}".encode()
        return not self.server.token or hmac.compare_digest(wanted, sent)

    def _metrics(self) -> None:
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._answer(HTTPStatus.OK, encode(self.server.registry), content_type)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base's name
        """Say nothing: the terminal is the live view's."""
