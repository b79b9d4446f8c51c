"""Who may speak to a weight server: a token in every call, and TLS where others could listen."""

import hmac
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc

from troupe.errors import UserError

Metadata = tuple[tuple[str, str], ...]

_HEADER = "authorization"


@dataclass(frozen=True)
class Tls:
    """One side's certificates, as PEM bytes.

    A server needs `certificate` and `key`; with `authority` it asks its clients for certificates
    too. A client needs `authority`, unless the system trusts the server's; with `certificate` and
    `key` it shows its own.
    """

    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    authority: bytes | None = None
    name: str | None = None
    """What the server's certificate calls it, where that is not the address it is called by."""

    @classmethod
    def from_text(cls, text: str) -> "Tls | None":
        """What `to_text` gave; nothing of nothing."""
        if not text:
            return None
        parts = json.loads(text)
        pems = {key: pem.encode() if pem else None for key, pem in parts["pems"].items()}
        return cls(**pems, name=parts["name"])

    def to_text(self) -> str:
        """All of it, the key too: for memory and environments, never for a log."""
        given = {"certificate": self.certificate, "key": self.key, "authority": self.authority}
        pems = {key: pem.decode() if pem else None for key, pem in given.items()}
        return json.dumps({"pems": pems, "name": self.name})

    def server(self) -> grpc.ServerCredentials:
        """What a server listens with.

        Raises:
            UserError: the certificate or its key is missing.
        """
        if self.certificate is None or self.key is None:
            raise UserError("weights.tls: a server needs a certificate and its key")
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], self.authority, self.authority is not None
        )

    def channel(self) -> grpc.ChannelCredentials:
        """What a client connects with."""
        return grpc.ssl_channel_credentials(self.authority, self.key, self.certificate)

    def options(self) -> list[tuple[str, str]]:
        """The options of a channel that goes with `channel`."""
        return [("grpc.ssl_target_name_override", self.name)] if self.name else []


def metadata(token: str) -> Metadata:
    """What a caller sends with each call."""
    return ((_HEADER, f"Bearer {token}"),)


def holds(token: str, sent: Iterable[tuple[str, str | bytes]]) -> bool:
    """Whether a call's metadata has the right token; takes as long for any wrong one."""
    wanted = f"Bearer {token}".encode()
    found = next((value for name, value in sent if name == _HEADER), "")
    return hmac.compare_digest(wanted, found.encode() if isinstance(found, str) else found)


def check_exposure(host: str, token: str, tls: Tls | None, *, plaintext: bool) -> None:
    """Refuse to listen where that would give the weights away.

    Raises:
        UserError: there is no token; or `host` is not loopback and there is no TLS, unless
            `plaintext` says that this is wanted.
    """
    if not token:
        raise UserError("weights.token: empty; a weight server always needs a token")
    if tls is None and not plaintext and not is_loopback(host):
        raise UserError(
            f"weights.host: {host} is reachable from other machines; give a TLS certificate, "
            "or ask for plain text"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
