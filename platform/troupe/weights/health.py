"""How a server is, by gRPC's standard health protocol, on a port that answers nothing else.

The probes of an orchestrator speak neither TLS nor tokens, so this port needs neither: it tells
everybody whether the server answers, and no more. Only `Check` is there; whoever would `Watch` is
told that it is not, as the protocol provides. Its two messages have a field each, and are written
out here rather than made from a contract of somebody else's.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc

from troupe.weights.server import PortError
from troupe.weights.service import Context

SERVICE = "troupe.wire.Weights"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""Field 1, a number."""
_REQUESTS = (b"", b"\x0a" + bytes([len(SERVICE)]) + SERVICE.encode())
"""Nothing asks for the whole server; field 1, a text, for one service."""


@asynccontextmanager
async def answering(address: str, ready: Callable[[], bool]) -> AsyncIterator[int]:
    """Answer at `address`, `host:port`, what `ready` says; gives the port, which 0 leaves free.

    Raises:
        PortError: the port cannot be listened on.
    """

    async def check(request: bytes, context: Context) -> bytes:
        if request not in _REQUESTS:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is only {SERVICE}")
        return SERVING if ready() else NOT_SERVING

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Check": grpc.unary_unary_rpc_method_handler(check)
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),)
    )
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise PortError(f"--health: cannot listen on {address}; 0 takes a free port") from None
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
