"""What can be wrong with weights: one class for each status that the wire knows."""

from typing import ClassVar

import grpc

from troupe.errors import TroupeError


class WeightsError(TroupeError):
    """Weights could not be published, fetched or pinned."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL


class InvalidError(WeightsError):
    """A message contradicts itself or the contract."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class MissingError(WeightsError):
    """No such policy or version: never published, or replaced by newer ones."""

    status = grpc.StatusCode.NOT_FOUND


class FencedError(WeightsError):
    """Published by an attempt of the run that has a successor."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class NotNewerError(WeightsError):
    """Not newer than what the same attempt has published."""

    status = grpc.StatusCode.ALREADY_EXISTS


class NoRoomError(WeightsError):
    """Larger than what is accepted, or than the room that is left."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class DamagedError(WeightsError):
    """A checksum does not match."""

    status = grpc.StatusCode.DATA_LOSS


class RefusedError(WeightsError):
    """No token, or a wrong one."""

    status = grpc.StatusCode.UNAUTHENTICATED


class UnreachableError(WeightsError):
    """The server does not answer, or has not said yet where it is. Worth another try."""

    status = grpc.StatusCode.UNAVAILABLE


_BY_STATUS: dict[grpc.StatusCode, type[WeightsError]] = {
    kind.status: kind
    for kind in (
        InvalidError,
        MissingError,
        FencedError,
        NotNewerError,
        NoRoomError,
        DamagedError,
        RefusedError,
        UnreachableError,
    )
}
# A server that is told to stop, or dies in the middle of a stream, ends its calls with these.
_BY_STATUS[grpc.StatusCode.CANCELLED] = UnreachableError
_BY_STATUS[grpc.StatusCode.DEADLINE_EXCEEDED] = UnreachableError


def from_call(error: grpc.RpcError) -> WeightsError:
    """The error of ours that a failed call stands for."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    kind = _BY_STATUS.get(error.code(), WeightsError)
    return kind(f"weights: {error.details() or error.code().name.lower()}")
