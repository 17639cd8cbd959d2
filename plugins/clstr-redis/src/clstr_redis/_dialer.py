"""From options to an open connection to the server that takes writes."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from clstr.errors import ClstrError, TransportUnavailableError
from clstr.spi import Resolver, connect_tcp, connect_unix, race, read_credentials
from clstr_redis._connection import Connection
from clstr_redis._errors import explain
from clstr_redis._options import Options
from clstr_redis._server import why_unusable
from clstr_redis._streams import Encrypted, Local, Plain

NEXT_ADDRESS_AFTER = 0.25  # seconds, as `connect_tcp` waits


class Dialer:
    """
    Opens connections to the server that takes writes.

    Args:
        options: Where, and as whom.
        connect_timeout: Seconds for each attempt, sentinels included.
        logger: Where warnings go.
    """

    def __init__(self, options: Options, connect_timeout: float, logger: logging.Logger) -> None:
        self._options = options
        self._connect_timeout = connect_timeout
        self._logger = logger
        self._has_warned = False
        self._resolver = Resolver()
        self._secrets: list[str | None] = [options.sentinel_credentials.get("password")]
        self._common: dict[str, Any] = {  # Any: redis-py's keywords
            "retry": Retry(NoBackoff(), 0),  # what may have run is not sent again
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),  # a right less, a round trip less
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
            async with asyncio.timeout(self._connect_timeout):
                connection = new_connection(await self._raw())
                await connection.dial()
                await self.check(connection)
        except BaseException as error:
            if connection is not None:
                await connection.end()
            if not isinstance(error, Exception):
                raise
            failure, cause = self.explain(error), error if isinstance(error, OSError) else None
        else:
            self._warn_of_plaintext()
            return connection
        # Out here, so that the chain has no exception of the driver: it may repeat what the server was sent.
        raise failure from cause

    async def check(self, connection: Connection) -> None:
        """
        Ask the server whether it still is one that can be used.

        Raises:
            TransportUnavailableError: It is not, or the connection is lost.
            redis.exceptions.ResponseError: It does not say.
        """
        if reason := why_unusable(await connection.ask(b"HELLO")):
            raise TransportUnavailableError(f"{self._where()} cannot be used: {reason}")

    def explain(self, error: Exception) -> ClstrError:
        """Turn what the server says, or what dialling it ended with, into an error that names it."""
        return explain(error, self._where(), self._options.prefix, self._secrets)

    async def _raw(self) -> AbstractConnection:
        options = self._options
        # No timeout of redis-py's: dialling is bounded as a whole, and afterwards there are heartbeats.
        identity = await _identity(options)
        self._secrets[1:] = [identity["password"]]
        common = {**self._common, **identity}
        common |= {"db": options.database, "protocol": 3, "socket_timeout": None}
        if options.scheme == "redis+unix":
            return Local(partial(connect_unix, options.path), path=options.path, **common)
        if options.scheme == "redis+sentinel":
            host, port = await self._ask_sentinels()
        else:
            ((host, port),) = options.hosts
        dial = partial(connect_tcp, host, port, self._resolver)
        if options.scheme == "rediss":
            return Encrypted(dial, host=host, port=port, **{**common, **options.tls})
        return Plain(dial, host=host, port=port, **common)

    async def _ask_sentinels(self) -> tuple[str, int]:
        """
        Ask where the primary is: a dead sentinel must not cost the time of all, a slow one be given up for slowness.

        A third of the time is for starting all of them, one after the other.
        """
        hosts = self._options.hosts
        attempts = [partial(self._ask_sentinel, host, port) for host, port in hosts]
        stagger = self._connect_timeout / (3 * len(hosts))
        try:
            return await race(attempts, delay=stagger)
        except ExceptionGroup as group:
            raise group.exceptions[-1] from None

    async def _ask_sentinel(self, host: str, port: int) -> tuple[str, int]:
        """Ask one of them, at whichever of its addresses answers."""
        options = self._options
        timeouts = {"socket_connect_timeout": self._connect_timeout, "socket_timeout": self._connect_timeout}
        kwargs = {**self._common, **options.sentinel_credentials, **timeouts}

        async def ask(address: str) -> tuple[str, int]:
            sentinel = Sentinel([(address, port)], sentinel_kwargs=kwargs)  # type: ignore[no-untyped-call]  # redis-py's
            try:
                found: tuple[str, int] = await sentinel.discover_master(options.path)
            finally:
                for each in sentinel.sentinels:
                    await each.aclose()
            return found

        addresses = await self._resolver.resolve(host, port)
        attempts = [partial(ask, str(address.sockaddr[0])) for address in addresses]
        try:
            return await race(attempts, delay=NEXT_ADDRESS_AFTER)
        except ExceptionGroup as group:
            raise group.exceptions[-1] from None

    def _where(self) -> str:
        options = self._options
        hosts = ", ".join(f"{host}:{port}" for host, port in options.hosts)
        if options.scheme == "redis+sentinel":
            return f"the service {options.path} of {hosts}"
        return f"the Redis server {hosts or options.path}"

    def _warn_of_plaintext(self) -> None:
        exposed = [host for host, _ in self._options.hosts if not is_loopback(host)]
        if exposed and self._options.scheme != "rediss" and not self._has_warned:
            self._has_warned = True
            self._logger.warning("the connection to %s is not encrypted: use rediss:// outside of one machine", exposed)


async def _identity(options: Options) -> Mapping[str, str | None]:
    """
    Return user and password, asked anew for each connection if they expire.

    Raises:
        AuthenticationError: There are none.
    """
    if options.ask_credentials is None:
        return options.credentials
    user, secret = await read_credentials(options.ask_credentials)
    return {"username": user, "password": secret}


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` is this machine, judged by its name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
