"""A relay's view of the server above it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from troupe.weights import framing
from troupe.weights.channel import FETCH, OPTIONS, Address, backoff
from troupe.weights.credentials import Tls, metadata
from troupe.weights.errors import UnreachableError, from_call
from troupe.weights.files import Shelf, Stored
from troupe.weights.manifest import CARRY, check
from troupe.wire.weights_pb2 import FetchRequest, Notices, WatchRequest
from troupe.wire.weights_pb2_grpc import WeightsStub

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upstream:
    """The server that a relay takes its weights from."""

    address: Address
    token: str
    tls: Tls | None = None

    async def follow(self, hear: Callable[[Notices], None]) -> None:
        """Pass on what is new, for ever; the server may come and go."""
        delays = backoff()
        while True:
            try:
                async with self._connect() as channel:
                    request = WatchRequest(carry=CARRY)
                    call = WeightsStub(channel).Watch(request, metadata=metadata(self.token))
                    async for notices in call:
                        hear(notices)
                        delays = backoff()
            except (grpc.RpcError, UnreachableError) as error:
                failure = from_call(error) if isinstance(error, grpc.RpcError) else error
                log.info("upstream: %s", failure)
            await asyncio.sleep(next(delays))

    async def fetch(self, policy: str, version: int | None, shelf: Shelf, max_bytes: int) -> Stored:
        """Copy a version from the server to `shelf`.

        Raises:
            WeightsError: the server's answer, or UnreachableError where there is none.
        """
        try:
            async with self._connect() as channel:
                fetch: grpc.aio.UnaryStreamMultiCallable[FetchRequest, bytes] = (
                    channel.unary_stream(FETCH, FetchRequest.SerializeToString, None)
                )
                call = fetch(
                    FetchRequest(policy=policy, version=version), metadata=metadata(self.token)
                )
                messages = aiter(call)
                manifest = framing.read_opening(await anext(messages, b""))
                check(manifest, max_bytes)
                with shelf.incoming(manifest) as incoming:
                    async for message in messages:
                        incoming.write(framing.unframe(message))
                    return incoming.commit()
        except grpc.RpcError as error:
            raise from_call(error) from None

    def _connect(self) -> grpc.aio.Channel:
        target = self.address()
        if not target:
            raise UnreachableError("weights: the upstream has not said yet where it is")
        if self.tls is None:
            return grpc.aio.insecure_channel(target, OPTIONS)
        return grpc.aio.secure_channel(target, self.tls.channel(), [*OPTIONS, *self.tls.options()])
