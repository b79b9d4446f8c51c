"""One connection to the store: checked when it is made, patient when it is lost."""

import ssl
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import AbstractBackoff, ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from troupe.errors import UserError
from troupe.store import StoreError

SCHEMA = 1
"""Version of our keys and functions; it is part of the function library's name."""
OLDEST_SERVER = 7
_READ_BYTES = 256 * 1024
"""How much is asked of the socket at once: several blocks."""
SOCKET_SECONDS = 15.0
_RETRIES = 12
_RETRIED = (redis.ConnectionError, redis.TimeoutError)
_LIBRARY = [
    Path(__file__).with_name(name)
    for name in ("functions.lua", "prompts.lua", "prompts_learner.lua")
]
"""One library in several files, in this order."""

Argument = str | int | float | bytes


class Store:
    """A run's place in a Redis-protocol server. Safe to share between threads."""

    def __init__(
        self, url: str, run: str, *, retries: int = _RETRIES, timeout: float = SOCKET_SECONDS
    ) -> None:
        self.run = run
        self.where = address(url)
        self._backoff = _CountedBackoff()
        self.redis = _client(url, Retry(self._backoff, retries, _RETRIED), timeout)
        """Commands that may be sent twice when a connection breaks."""
        self.once = _client(url, Retry(NoBackoff(), 0, ()))
        """Commands that must not be."""

    @classmethod
    def connect(
        cls, url: str, run: str, *, timeout: float = 5.0, create: bool = True, patient: bool = True
    ) -> "Store":
        """Open the place of `run`, which is made if `create` allows it and it is not there.

        While a server is away its commands wait for it; but those of a process that has to stay
        responsive, with `patient` false, fail if there is no answer within `timeout` seconds.

        `url` is `redis://[user:password@]host:port`, `rediss://` for TLS (with `?ssl_ca_certs=FILE`
        for a certificate authority of one's own) or `unix://PATH`.

        Raises:
            UserError: the URL or the password is wrong, or the server is too old.
            StoreError: nobody answers, or the keys are of another schema or another run.
        """
        check_server(url, timeout)
        store = cls(url, run) if patient else cls(url, run, retries=0, timeout=timeout)
        with store.guard():
            store._open(create)
        return store

    @classmethod
    def check(cls, url: str, run: str) -> None:
        """See that `run` could go on in this store, without touching what it holds.

        Raises:
            StoreError: its keys there are of another schema.
        """
        store = cls(url, run, retries=0)
        with closing(store), store.guard():
            store._schema()

    @property
    def retries(self) -> int:
        """How often a command had to be tried again because the connection was lost."""
        return self._backoff.count

    def key(self, *parts: str | int) -> str:
        """The name of one of this run's keys."""
        return ":".join(("troupe", self.run, *map(str, parts)))

    def generation(self) -> str | None:
        """An id that lives as long as the store's memory; none in a store that came back empty."""
        with self.guard():
            value = self.redis.get(self.key("generation"))
            return None if value is None else text(value)

    def renew(self) -> str:
        """Give a store that came back empty what `connect` had made; return its generation."""
        with self.guard():
            self._open(create=True)
        return self.generation() or ""

    def call(self, name: str, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """Call a function of our library, loading it again where the server lost it."""
        with self.guard():
            try:
                return self.redis.fcall(function(name), len(keys), *keys, *arguments)
            except redis.ResponseError as error:
                if "function not found" not in str(error).lower():
                    raise
                self._load_library()
                return self.redis.fcall(function(name), len(keys), *keys, *arguments)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turn what the client library raises into one line that names the store."""
        try:
            yield
        except redis.OutOfMemoryError:
            raise StoreError(
                f"store at {self.where}: its memory is full; raise store.memory_mb or the server's maxmemory"
            ) from None
        except _RETRIED as error:
            raise StoreError(
                f"store at {self.where}: the connection was lost and did not come back: {_short(error)}"
            ) from None
        except redis.RedisError as error:
            raise StoreError(f"store at {self.where}: {_short(error)}") from None

    def close(self) -> None:
        """Close every connection."""
        self.redis.close()
        self.once.close()

    def _schema(self) -> str | None:
        """What the run's keys are of, ours or none.

        Raises:
            StoreError: of another schema.
        """
        held = self.redis.get(self.key("schema"))
        if held is not None and text(held) != str(SCHEMA):
            raise StoreError(
                f"store at {self.where}: run {self.run} is kept there in schema {text(held)}, this "
                f"version of troupe speaks schema {SCHEMA}; use the version that made it, or a new run"
            )
        return None if held is None else text(held)

    def _open(self, create: bool) -> None:
        if self._schema() is None and not create:
            raise StoreError(
                f"store at {self.where}: it does not hold the run {self.run}; it is another run's "
                "store, or it was restarted and lost its memory"
            )
        self._load_library()
        if create:
            self.redis.set(self.key("generation"), uuid.uuid4().hex, nx=True)
            self.redis.set(self.key("schema"), SCHEMA, nx=True)

    def _load_library(self) -> None:
        library = "\n".join(path.read_text() for path in _LIBRARY)
        self.redis.function_load(library, replace=True)


class _CountedBackoff(AbstractBackoff):
    """Waits longer after each failure, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self._waits = ExponentialWithJitterBackoff(cap=2.0, base=0.02)

    def __deepcopy__(self, memo: dict[int, object]) -> "_CountedBackoff":
        return self  # The client library copies it for every connection; the count is one.

    def compute(self, failures: int) -> float:
        self.count += 1
        return float(self._waits.compute(failures))


def function(name: str) -> str:
    """What the server calls a function of our library."""
    return f"troupe_{SCHEMA}_{name}"


def address(url: str) -> str:
    """Where a store is, in words for people: never with the password."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return parts.path
        return (
            f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else "a URL without a host"
        )
    except ValueError:
        return "an unreadable URL"


def _client(url: str, retry: Retry, timeout: float = SOCKET_SECONDS) -> "redis.Redis":
    options: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True}
    try:
        client = redis.Redis.from_url(
            url,
            protocol=2,
            retry=retry,
            socket_timeout=timeout,
            socket_connect_timeout=min(timeout, 5.0),
            socket_read_size=_READ_BYTES,
            **options,
        )
    except (ValueError, TypeError):
        raise UserError(
            f"store.url: {address(url)} is not given as redis://host:port, rediss:// or unix://"
        ) from None
    pool = client.connection_pool
    try:
        pool.connection_class(**pool.connection_kwargs)  # only now the URL's options are looked at
    except TypeError as error:
        raise UserError(f"store.url: {address(url)}: what follows `?`: {_short(error)}") from None
    return client


def check_server(url: str, timeout: float = 5.0) -> None:
    """See that a server answers, lets us in and is new enough, without waiting for it for long.

    Raises:
        UserError: the URL or the password is wrong, or the server is too old.
        StoreError: nobody answers.
    """
    where = address(url)
    with _client(url, Retry(NoBackoff(), 0), timeout) as probe:
        try:
            info = probe.info("server")
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            raise UserError(
                f"store.url: the server at {where} refuses the user or password: {_short(error)}"
            ) from None
        except (redis.RedisError, OSError, ssl.SSLError) as error:
            raise StoreError(
                f"store at {where}: no answer ({_short(error)}); is the server running, and store.url right?"
            ) from None
    version = str(info.get("redis_version", "0"))
    if int(version.split(".")[0]) < OLDEST_SERVER:
        raise UserError(
            f"store.url: the server at {where} is version {version}; Redis {OLDEST_SERVER} or later, "
            "or Valkey, is needed"
        )


def text(value: bytes | str) -> str:
    """What the server holds, as a string."""
    return value.decode() if isinstance(value, bytes) else value


def _short(error: Exception) -> str:
    """The first line of an error; the client library never puts a password into one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
