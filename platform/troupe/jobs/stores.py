"""Which store a run uses: the one that is named, or one started for it."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from troupe.errors import UserError
from troupe.jobs.spec import Job
from troupe.store import server
from troupe.store.connection import Store, check_server
from troupe.weights.credentials import Tls

URL = "TROUPE_STORE_URL"
PASSWORD = "TROUPE_STORE_PASSWORD"
AUTHORITY = "TROUPE_STORE_CA"
"""A file with the certificates that a server of `rediss://` is checked by."""
_AUTHORITIES = ("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path")


def named(job: Job) -> str | None:
    """The URL of the store that the job or the environment names, password included; None for none.

    Raises:
        UserError: it cannot be used.
    """
    given = job.store.url
    if given is None:
        given = os.environ.get(URL)
        return None if not given else complete(given)
    try:
        parts = urlsplit(given)
    except ValueError as error:
        raise UserError(f"store.url: not a URL such as redis://host:port: {error}") from None
    if parts.password or "password" in parse_qs(parts.query):
        raise UserError(
            f"store.url: a job file is no place for a password; export {PASSWORD} instead"
        )
    return complete(given)


def open_for(
    job: Job, scratch: Path, *, host: str = server.HOST, tls: Tls | None = None
) -> tuple[str, Callable[[], bool]]:
    """The URL, password included, of the store that a run uses, and whether it runs.

    One that nobody named is started on this machine, with its files in `scratch`.

    Raises:
        UserError, StoreError: it cannot be used, or does not start.
    """
    url = named(job)
    if url is not None:
        # Others look after it; its clients wait for it while it is away.
        return url, lambda: True
    started = server.start(
        scratch,
        password=secrets.token_urlsafe(32),
        memory_mb=job.store.memory_mb,
        host=host,
        tls=tls,
    )
    return started.url, started.alive


def check(job: Job, run: str | None = None) -> None:
    """See that the store, if one is named, can be used, by `run` if that goes on there.

    Raises:
        UserError, StoreError: it cannot.
    """
    url = named(job)
    if url is None:
        return
    check_server(url)
    if run is not None:
        Store.check(url, run)


def complete(url: str) -> str:
    """A URL with the password and the authority that the environment holds for it."""
    parts = urlsplit(url)
    password = os.environ.get(PASSWORD)
    if password and not parts.password:
        at = parts.netloc.rpartition("@")[2]
        login = f"{parts.username or ''}:{quote(password, safe='')}"
        parts = parts._replace(netloc=f"{login}@{at}")
    authority = os.environ.get(AUTHORITY)
    known = any(key in parse_qs(parts.query) for key in _AUTHORITIES)
    if authority and parts.scheme == "rediss" and not known:
        parts = parts._replace(query="&".join(filter(None, (parts.query, _authority(authority)))))
    return parts.geturl()


def _authority(file: str) -> str:
    """The certificates themselves: other nodes need not have the file."""
    try:
        return f"ssl_ca_data={quote(Path(file).read_text(), safe='')}"
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{AUTHORITY}: {file} cannot be read: {error}") from None
