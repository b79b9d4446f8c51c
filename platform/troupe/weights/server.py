"""The weight server: one asyncio program that keeps, serves and announces versions of weights.

With an `upstream` it is a relay: it keeps what its own callers ask for, and passes on the notices.
"""

import asyncio
import fcntl
import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import grpc

from troupe.errors import UserError
from troupe.metrics import Metrics
from troupe.weights.credentials import Tls, check_exposure, holds
from troupe.weights.files import Shelf
from troupe.weights.framing import MAX_MESSAGE
from troupe.weights.memory import keep_large_buffers
from troupe.weights.relay import Upstream
from troupe.weights.service import Context, Service
from troupe.wire.weights_pb2 import (
    FetchRequest,
    PinReply,
    PinRequest,
    PublishReply,
    WatchRequest,
    Whole,
)

Q = TypeVar("Q")
R = TypeVar("R")

MAX_BYTES = 64 << 30
KEEP = 2
"""Versions of a policy that stay: whoever was told of one has until the second next to fetch it."""

_GRACE = 0.5
_OPTIONS = [
    # Two servers on one port would each get some of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # Notice within half a minute that a caller's machine is gone, though nothing was closed.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class PortError(UserError):
    """The port cannot be listened on."""


async def serve(
    folder: Path,
    *,
    token: str,
    on_ready: Callable[[str], None],
    stop: asyncio.Event,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: Tls | None = None,
    plaintext: bool = False,
    pins: Path | None = None,
    upstream: Upstream | None = None,
    keep: int = KEEP,
    max_bytes: int = MAX_BYTES,
    metrics: Metrics | None = None,
) -> None:
    """Serve the weights in `folder` until `stop` is set.

    Args:
        folder: memory-backed; what it holds from an earlier server is served again.
        on_ready: is given the address, `host:port`, once the server answers.
        port: 0 takes a free one.
        plaintext: listen outside loopback without TLS.
        pins: folder for pinned versions.
        keep: newest versions of each policy that stay.
        max_bytes: size of the largest version that is accepted.
        metrics: counts `bytes_sent`, shows `watchers`.

    Raises:
        PortError: the port is in use.
        UserError: no token, no TLS outside loopback, or another server uses the folder.
    """
    check_exposure(host, token, tls, plaintext=plaintext)
    keep_large_buffers()
    open_many_files()
    with _claim(folder):
        service = Service(
            shelf=Shelf(folder),
            pins=None if pins is None else Shelf(pins),
            upstream=upstream,
            metrics=metrics or Metrics(),
            keep=keep,
            max_bytes=max_bytes,
        )
        service.restore()
        server = grpc.aio.server(interceptors=[_Guard(token)], options=_OPTIONS)
        server.add_generic_rpc_handlers((_handlers(service),))
        bound = _listen(server, host, port, tls)
        await server.start()
        following = asyncio.create_task(upstream.follow(service.hear)) if upstream else None
        try:
            on_ready(f"{host}:{bound}")
            await stop.wait()
        finally:
            if following is not None:
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following
            await server.stop(_GRACE)


class _Guard(grpc.aio.ServerInterceptor):
    """Lets no call in without the token."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Q, R] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Q, R] | None":
        if holds(self._token, handler_call_details.invocation_metadata or ()):
            return await continuation(handler_call_details)
        # Whatever the call was to be: this kind answers without reading what the caller sends.
        return grpc.stream_stream_rpc_method_handler(_refuse)


async def _refuse(requests: object, context: Context) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")


def _handlers(service: Service) -> grpc.GenericRpcHandler:
    """The calls of the contract; those that carry payload read and write bytes as they are."""
    return grpc.method_handlers_generic_handler(
        "troupe.wire.Weights",
        {
            "Publish": grpc.stream_unary_rpc_method_handler(
                service.publish, None, PublishReply.SerializeToString
            ),
            "Fetch": grpc.unary_stream_rpc_method_handler(
                service.fetch, FetchRequest.FromString, None
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                service.watch, WatchRequest.FromString, None
            ),
            "Put": grpc.unary_unary_rpc_method_handler(
                service.put, Whole.FromString, PublishReply.SerializeToString
            ),
            "Pin": grpc.unary_unary_rpc_method_handler(
                service.pin, PinRequest.FromString, PinReply.SerializeToString
            ),
        },
    )


def _listen(server: grpc.aio.Server, host: str, port: int, tls: Tls | None) -> int:
    address = f"{host}:{port}"
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, tls.server())
    except RuntimeError:
        raise PortError(
            f"weights.port: cannot listen on {address}; is it in use? 0 takes a free one"
        ) from None


def open_many_files() -> None:
    """Allow a connection for each watcher: many systems give a process 1,024 files until it asks."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems say that there is no limit, and have one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _claim(folder: Path) -> Iterator[None]:
    """Hold a folder against other servers; a process that dies lets go of it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"weights.folder: another server uses {folder}; give another") from None
        yield
    finally:
        os.close(handle)
