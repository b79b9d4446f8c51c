"""One MULTI/EXEC with large values, sent while it is still being made.

The client library's pipeline gathers everything before it sends anything. Here the server works on
some blocks while we encode the next; a write to the socket carries several, since each one wakes
the server up.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import redis
import redis.connection

_Connection = redis.connection.AbstractConnection
Part = bytes | bytearray
"""A command's name or an argument."""

_WRITE_BYTES = 512 * 1024
"""How much is gathered for one write."""


class Receipt(Protocol):
    """What has to be done in one transaction with appending a block, or the block is not appended."""

    def command(self, log: Sequence[str], token: str, size: bytes) -> list[Part]:
        """The command that does it and counts the block, behind the one that adds it.

        It replies `ok`, or why it took the block back. `log` is the keys of `troupe_1_commit`.
        """
        ...

    def done(self, reservations: str, token: str) -> bool:
        """Whether it was done, after the connection was lost; if not, it never will be."""
        ...

    def wait(self) -> None:
        """The block waits for room: called every now and then."""
        ...


def transact(client: "redis.Redis", commands: Iterable[Sequence[Part]]) -> list[object]:
    """Run commands as one transaction, all or none, and return their replies; nothing is retried.

    Raises:
        redis.RedisError: why nothing was done; for a lost connection it may have been done.
    """
    pool = client.connection_pool
    connection = pool.get_connection()
    whole = False
    try:
        pieces, size, replies = [*pack([b"MULTI"])], 0, 1
        for command in commands:
            pieces += pack(command)
            size += sum(map(len, command))
            replies += 1
            if size >= _WRITE_BYTES:
                _write(connection, pieces)
                pieces, size = [], 0
        _write(connection, [*pieces, *pack([b"EXEC"])])
        refusals = [error for _ in range(replies) if (error := _refusal(connection))]
        try:
            results = connection.read_response()
        except redis.ResponseError as error:
            whole = True
            raise (refusals or [error])[0] from None
        whole = True
    finally:
        if not whole:
            # The server drops half a transaction with its connection.
            connection.disconnect()  # type: ignore[no-untyped-call]
        pool.release(connection)
    for result in results:
        if isinstance(result, redis.ResponseError):
            raise result
    return list(results)


def pack(parts: Sequence[Part]) -> list[Part]:
    """A command in the Redis serialization protocol, in pieces."""
    pieces: list[Part] = [b"*%d\r\n" % len(parts)]
    for part in parts:
        pieces += [b"$%d\r\n" % len(part), part, b"\r\n"]
    return pieces


def _write(connection: _Connection, pieces: Iterable[Part]) -> None:
    connection.send_packed_command([b"".join(pieces)])  # type: ignore[no-untyped-call]


def _refusal(connection: _Connection) -> redis.ResponseError | None:
    try:
        connection.read_response()
    except redis.ResponseError as error:
        return error
    return None
