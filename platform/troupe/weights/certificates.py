"""Certificates made for one run, which only its own processes trust."""

import datetime
import ipaddress
from collections.abc import Sequence

from troupe.errors import UserError
from troupe.weights.credentials import Tls

_VALID = datetime.timedelta(days=365)
_CLOCK_SKEW = datetime.timedelta(hours=1)


def self_signed(hosts: Sequence[str] = ("localhost", "127.0.0.1")) -> Tls:
    """A certificate for `hosts` (names or addresses) that is its own authority.

    With it on both sides, each proves to the other that it has the key.

    Raises:
        UserError: the package `cryptography` is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise UserError(
            "weights.tls: making certificates needs the package `cryptography`; "
            "install it with: pip install 'troupe[tls]'"
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "troupe")])
    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.IPAddress(ipaddress.ip_address(host)) if _is_address(host) else x509.DNSName(host)
        for host in hosts
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Tls(certificate=certificate, key=private, authority=certificate)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
