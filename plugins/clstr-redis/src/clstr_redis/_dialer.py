"""From options to an open connection, and errors that say what to do."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable
from typing import Any

import redis.exceptions
from redis.asyncio.connection import (
    AbstractConnection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.connection import Connection as PlainConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from clstr.errors import AccessDeniedError, AuthenticationError, ClstrError, TransportUnavailableError
from clstr_redis._connection import Connection
from clstr_redis._options import Options

OLDEST = (6, 2)
_REFUSALS = re.compile(r"WRONGPASS|NOAUTH|invalid (username|password)|AUTH", re.IGNORECASE)


class Dialer:
    """
    Opens connections to the server that takes writes.

    Args:
        options: Where, and as whom.
        connect_timeout: Seconds for each attempt.
        logger: Where warnings go.
    """

    def __init__(self, options: Options, connect_timeout: float, logger: logging.Logger) -> None:
        self._options = options
        self._logger = logger
        self._has_warned = False
        self._common: dict[str, Any] = {
            "socket_connect_timeout": connect_timeout,
            "socket_timeout": None,  # the link has its own heartbeats
            "retry": Retry(NoBackoff(), 0),  # R1: what may have run is not sent again
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),  # R3
            "driver_info": None,  # needs no right to CLIENT SETINFO
        }

    async def dial(self, new_connection: Callable[[AbstractConnection], Connection]) -> Connection:
        """
        Return an open connection to a server that can be used.

        Raises:
            AuthenticationError: It refused the credentials.
            AccessDeniedError: The user lacks a right.
            TransportUnavailableError: It cannot be reached, or not be used.
        """
        connection: Connection | None = None
        try:
            connection = new_connection(await self._raw())
            await connection.dial()
            _check_server(await connection.call(b"HELLO"))
        except BaseException as error:
            if connection is not None:
                await connection.end()
            if isinstance(error, Exception):
                raise explain(error, self._where()) from error
            raise
        self._warn_of_plaintext()
        return connection

    async def _raw(self) -> AbstractConnection:
        options = self._options
        common = {**self._common, "protocol": 3, "db": options.database, **options.credentials}
        if options.scheme == "redis+unix":
            return UnixDomainSocketConnection(path=options.path, **common)
        if options.scheme == "redis+sentinel":
            host, port = await self._ask_sentinels()
            return PlainConnection(host=host, port=port, **common)
        ((host, port),) = options.hosts
        if options.scheme == "rediss":
            return SSLConnection(host=host, port=port, **options.tls, **common)
        return PlainConnection(host=host, port=port, **common)

    async def _ask_sentinels(self) -> tuple[str, int]:
        options = self._options
        kwargs = {**self._common, **options.sentinel_credentials}
        sentinel = Sentinel(list(options.hosts), sentinel_kwargs=kwargs)
        try:
            found: tuple[str, int] = await sentinel.discover_master(options.path)
        finally:
            for each in sentinel.sentinels:
                await each.aclose()
        return found

    def _where(self) -> str:
        options = self._options
        hosts = ", ".join(f"{host}:{port}" for host, port in options.hosts)
        return f"the service {options.path} of {hosts}" if options.scheme == "redis+sentinel" else hosts or options.path

    def _warn_of_plaintext(self) -> None:
        exposed = [host for host, _ in self._options.hosts if not is_loopback(host)]
        if exposed and self._options.scheme != "rediss" and not self._has_warned:
            self._has_warned = True
            self._logger.warning("the connection to %s is not encrypted: use rediss:// outside of one machine", exposed)


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` is this machine, judged by its name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_server(hello: Any) -> None:
    """Raise unless the server of this HELLO can be used."""
    if isinstance(hello, Exception):
        raise hello
    facts = {bytes(name).decode(): value for name, value in hello.items()}
    mode, role = bytes(facts["mode"]).decode(), bytes(facts["role"]).decode()
    if mode == "cluster":
        raise TransportUnavailableError(
            "this is a node of a Redis Cluster, which clstr-redis does not support: use one primary, with Sentinel if "
            "it has to fail over"
        )
    if role != "master":
        raise TransportUnavailableError("this is a read-only replica: name the primary, or use redis+sentinel://")
    version = bytes(facts["version"]).decode()
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise TransportUnavailableError(f"the server has version {version}: Redis 6.2 is the oldest that can be used")


def explain(error: Exception, server: str) -> ClstrError:
    """Turn what redis-py raised, or a command answered, into an error of ours; it never holds credentials."""
    if isinstance(error, ClstrError):
        return error
    text = str(error)
    if isinstance(error, redis.exceptions.NoPermissionError) or text.startswith("NOPERM"):
        return AccessDeniedError(f"the user lacks a right at {server}: {text.removeprefix('NOPERM ')}")
    if isinstance(error, redis.exceptions.AuthenticationError) or _REFUSALS.search(text):
        return AuthenticationError(f"{server} refused the credentials: {text}")
    if isinstance(error, TimeoutError | redis.exceptions.TimeoutError):
        text = "it did not answer in time"
    return TransportUnavailableError(f"{server} cannot be used: {text or type(error).__name__}")
