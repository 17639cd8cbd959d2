"""What a Redis URL and its options say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clstr.plugins import TransportURL, parse_codec, parse_file, parse_seconds
from clstr.spi import Credentials, check_credentials
from clstr_redis._names import DEFAULT_PREFIX, check_prefix

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
LEASE_HEARTBEATS = 5  # a lease lasts so many heartbeats: two may be late and one lost


def parse_database(text: str) -> int:
    """Read the number of a database."""
    if not text.isdecimal():
        raise ValueError(f"must be the number of a database, not {text!r}")
    return int(text)


def refuse_function(_text: str) -> object:
    """Refuse what a URL cannot say."""
    raise ValueError("is a function, which a URL cannot hold: give it to connect() as the keyword credentials")


PARAMETERS: Mapping[str, Callable[[str], object]] = {
    "codec": parse_codec,
    "credentials": refuse_function,
    "db": parse_database,
    "heartbeat": parse_seconds,
    "prefix": check_prefix,
    "sentinel_password": str,
    "sentinel_username": str,
    "tls_ca": parse_file,
    "tls_cert": parse_file,
    "tls_key": parse_file,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    How to reach the server.

    Attributes:
        scheme: ``redis``, ``rediss``, ``redis+unix`` or ``redis+sentinel``.
        hosts: ``(host, port)`` of each; of the sentinels, where there are some.
        path: The path of the UNIX socket, or the name of the service that the sentinels know.
        database: Its number.
        prefix: What keys and channels begin with.
        codec: What messages are sent in.
        heartbeat: Seconds between renewals of the leases, which last five of them.
        credentials: User and password, for redis-py.
        ask_credentials: What is asked for them at each connect, if that was given instead.
        sentinel_credentials: The same for the sentinels.
        tls: Files for TLS, for redis-py.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str = ""
    database: int = 0
    prefix: str = DEFAULT_PREFIX
    codec: str = "msgpack"
    heartbeat: float = 1.0
    credentials: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    ask_credentials: Credentials | None = field(default=None, repr=False)
    sentinel_credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, url: TransportURL, extra: Mapping[str, Any]) -> Options:
        """
        Read them.

        Raises:
            ValueError: They contradict each other, or one is malformed.
        """
        if url.scheme != "rediss" and any(name.startswith("tls") for name in extra):
            raise ValueError("there are options for TLS, but the URL does not ask for it: write rediss://")
        if "credentials" in extra and (url.username is not None or url.password is not None):
            raise ValueError("a user in the URL and credentials are two ways to say who this is: give one")
        names = ("prefix", "codec", "heartbeat")
        return cls(
            scheme=url.scheme,
            credentials={"username": url.username, "password": url.password},
            ask_credentials=check_credentials(extra["credentials"]) if "credentials" in extra else None,
            sentinel_credentials={
                name.removeprefix("sentinel_"): extra[name] for name in extra if name.startswith("sentinel_")
            },
            tls={_TLS[name]: extra[name] for name in _TLS if name in extra},
            **_place(url, extra),
            **{name: _checked(name, extra[name]) for name in names if name in extra},
        )

    @property
    def key_file(self) -> str:
        """The file with the key of our own certificate, which may be the certificate's; empty if there is none."""
        return self.tls.get("ssl_keyfile") or self.tls.get("ssl_certfile") or ""


_TLS = {"tls_ca": "ssl_ca_certs", "tls_cert": "ssl_certfile", "tls_key": "ssl_keyfile"}


def _place(url: TransportURL, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Read where the server is, and which of its databases is meant."""
    database = extra.get("db", 0)
    if url.scheme == "redis+unix":
        if url.hosts or not url.path:
            raise ValueError("malformed redis+unix URL: write the socket's path, as in redis+unix:///run/redis.sock")
        return {"hosts": (), "path": url.path, "database": database}
    if not url.hosts:
        raise ValueError(f"malformed {url.scheme} URL: it names no host; write {url.scheme}://127.0.0.1")
    path = url.path.removeprefix("/")
    if url.scheme == "redis+sentinel":
        if not path:
            raise ValueError("malformed redis+sentinel URL: write redis+sentinel://host,host/service")
        hosts = tuple((host, port or SENTINEL_PORT) for host, port in url.hosts)
        return {"hosts": hosts, "path": path, "database": database}
    if len(url.hosts) > 1:
        raise ValueError(
            f"malformed {url.scheme} URL: one server only; for several with one primary, redis+sentinel://"
        )
    if path and "db" in extra:
        raise ValueError("the database stands in the path and in db: give it once")
    host, port = url.hosts[0]
    return {"hosts": ((host, port or DEFAULT_PORT),), "database": parse_database(path) if path else database}


def _checked(name: str, value: Any) -> Any:
    """Check what came as a keyword and not as text."""
    if name == "heartbeat":
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(f"heartbeat must be seconds, not {type(value).__name__}")
        return parse_seconds(str(value))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return value
