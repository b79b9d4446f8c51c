"""The weight server by itself, for many runs and machines: `troupe weights`."""

import argparse
import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from troupe.errors import UserError
from troupe.jobs import node
from troupe.jobs.setting import WEIGHTS_TOKEN
from troupe.weights.credentials import Tls
from troupe.weights.health import answering
from troupe.weights.server import serve as serve_weights

TLS = "TROUPE_TLS"
"""A folder with `tls.crt`, `tls.key` and `ca.crt`, as a Secret of Kubernetes holds them."""


def serve(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit code.

    Raises:
        UserError: an address is not one, or it would give the weights away.
    """
    token = os.environ.get(WEIGHTS_TOKEN, "")
    if not token:
        raise UserError(f"{WEIGHTS_TOKEN}: not set; export the secret that callers show")
    asyncio.run(_serve(options, token, certificates(os.environ.get(TLS))))
    return 0


async def _serve(options: argparse.Namespace, token: str, tls: Tls | None) -> None:
    host, port = _address("--listen", options.listen)
    stop, serving = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def ready(address: str) -> None:
        print(f"Weights: {address}", flush=True)
        serving.set()

    async with _health(options.health, lambda: serving.is_set() and not stop.is_set()):
        await serve_weights(
            options.folder or _folder(),
            token=token,
            on_ready=ready,
            stop=stop,
            host=host,
            port=port,
            tls=tls,
            plaintext=options.plaintext,
            pins=options.pins,
            keep=options.keep,
        )


@asynccontextmanager
async def _health(address: str | None, ready: Callable[[], bool]) -> AsyncIterator[None]:
    host, port = ("", 0) if address is None else _address("--health", address)
    async with nullcontext() if address is None else answering(f"{host}:{port}", ready) as bound:
        if address is not None:
            print(f"Health: {host}:{bound}", flush=True)
        yield


def certificates(folder: str | None) -> Tls | None:
    """What a folder of certificates holds; with `ca.crt` both sides show theirs.

    Raises:
        UserError: a file of it cannot be read.
    """
    if not folder:
        return None
    authority = Path(folder) / "ca.crt"
    try:
        return Tls(
            certificate=(Path(folder) / "tls.crt").read_bytes(),
            key=(Path(folder) / "tls.key").read_bytes(),
            authority=authority.read_bytes() if authority.exists() else None,
        )
    except OSError as error:
        raise UserError(f"{TLS}: {error.filename}: {error.strerror}") from None


def _address(option: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UserError(f"{option}: {text!r} is not host:port, such as 0.0.0.0:50051")
    return host, int(port)


def _folder() -> Path:
    """In memory where there is room."""
    return (node.memory() or Path(tempfile.gettempdir())) / "troupe-weights"
