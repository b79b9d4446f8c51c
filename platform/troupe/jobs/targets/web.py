"""JSON over HTTP, to an address or a socket file, with errors that say what to do."""

import http.client
import json
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from troupe.errors import UserError
from troupe.jobs.targets import TargetError

SECONDS = 20.0
"""To wait for an answer."""
_PIECE = 16 * 1024

Connect = Callable[[float | None], http.client.HTTPConnection]
"""Makes a connection whose calls end after so many seconds."""


class AnswerError(TargetError):
    """The other side answered that it will not."""

    def __init__(self, where: str, status: int, text: str) -> None:
        super().__init__(f"{where}: {status}: {_reason(text)}")
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Web:
    """A server, and how to speak to it."""

    where: str
    """For people."""
    connect: Connect
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    prefix: str = ""
    """Of every path."""

    def get(self, path: str) -> object:
        """The JSON at a path. Raises as `call`."""
        return self.call("GET", path)

    def call(
        self, method: str, path: str, body: object = None, kind: str = "application/json"
    ) -> object:
        """The answer to a call: JSON, or nothing.

        Args:
            body: bytes as they are, else sent as JSON.

        Raises:
            AnswerError: the answer was no.
            TargetError: there was none.
        """
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        connection = self.connect(SECONDS)
        try:
            headers = {**self.headers, **({} if data is None else {"Content-Type": kind})}
            connection.request(method, self.prefix + path, data, headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from None
        finally:
            connection.close()
        return self._understand(answer.status, text)

    def stream(self, path: str, quiet: float) -> Iterator[bytes]:
        """The pieces of an answer that goes on; an empty one after so many quiet seconds.

        Raises:
            AnswerError: the answer was no.
            TargetError: the connection broke.
        """
        connection = self.connect(None)
        pieces: queue.Queue[bytes | Exception | None] = queue.Queue(64)
        try:
            connection.request("GET", self.prefix + path, headers=dict(self.headers))
            answer = connection.getresponse()
            if answer.status >= 400:
                self._understand(answer.status, answer.read().decode(errors="replace"))
            threading.Thread(target=_read, args=(answer, pieces), daemon=True).start()
            while True:
                try:
                    piece = pieces.get(timeout=quiet)
                except queue.Empty:
                    yield b""
                    continue
                if piece is None:
                    return
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from None
        finally:
            if connection.sock is not None:  # wakes whoever reads
                _shut(connection.sock)
            connection.close()

    def _understand(self, status: int, text: str) -> object:
        if status >= 400:
            raise AnswerError(self.where, status, text)
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise TargetError(
                f"{self.where}: answers, but not as expected; is the address right?"
            ) from None

    def _silent(self, error: Exception) -> TargetError:
        if isinstance(error, ssl.SSLError):
            return TargetError(
                f"{self.where}: {error}; is it https there, with a certificate that is trusted here?"
            )
        told = str(error) or type(error).__name__
        return TargetError(f"{self.where}: does not answer: {told}; is the address right?")


def dial(url: str) -> Connect:
    """How to connect to `http://` or `https://`, with the authorities that the system trusts.

    Raises:
        UserError: it is another kind of URL.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    if host is None or parts.scheme not in ("http", "https"):
        raise UserError(f"{url}: not a dashboard's address such as http://host:8265")
    if parts.scheme == "http":
        return lambda seconds: http.client.HTTPConnection(host, port, timeout=seconds)
    trusted = ssl.create_default_context()
    return lambda seconds: http.client.HTTPSConnection(host, port, timeout=seconds, context=trusted)


def dial_socket(path: Path) -> Connect:
    """How to connect to a socket file."""
    return lambda seconds: _SocketConnection(path, seconds)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float | None) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _read(
    answer: http.client.HTTPResponse, pieces: "queue.Queue[bytes | Exception | None]"
) -> None:
    try:
        while piece := answer.read1(_PIECE):
            pieces.put(piece)
        pieces.put(None)
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        # The last two are what a connection says that was closed meanwhile.
        pieces.put(error if isinstance(error, OSError) else OSError("the connection broke"))


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _reason(text: str) -> str:
    """The line that matters of what a server says: of a traceback, the last."""
    try:
        told = json.loads(text)
        text = (
            str(told.get("message") or told.get("msg") or text) if isinstance(told, dict) else text
        )
    except ValueError:
        pass
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 1]
    return lines[-1][:300] if lines else "without a word"
