"""The connection that is in use: dialled, watched, and replaced when it is lost."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable

import redis.exceptions
from redis.asyncio.connection import AbstractConnection

from clstr.errors import ClstrError, TransportUnavailableError
from clstr.spi import Sink
from clstr_redis._connection import Connection
from clstr_redis._dialer import Dialer
from clstr_redis._leases import Leases
from clstr_redis._names import Names
from clstr_redis._rights import check_rights
from clstr_redis._scripts import SCRIPTS

MISSED_HEARTBEATS = 3
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts to connect again


class Session:
    """
    Keeps one peer connected.

    Args:
        dialer: Opens connections.
        names: What inboxes are called.
        leases: What each connection leases again.
        heartbeat: Seconds between renewals of the leases.
        receive: Gets each message that arrives. Must not raise.
        logger: Where it says what happened to the connection.

    Attributes:
        connection: The one in use. Messages arrive, and are answered, before it is up: as soon as one lease is known.
    """

    _sink: Sink

    def __init__(
        self,
        dialer: Dialer,
        names: Names,
        leases: Leases,
        *,
        heartbeat: float,
        receive: Callable[[bytes], None],
        logger: logging.Logger,
    ) -> None:
        self._dialer = dialer
        self._names = names
        self._leases = leases
        self._heartbeat = heartbeat
        self._receive = receive
        self._logger = logger
        self._is_up = False
        self._pause = FIRST_PAUSE
        self._refusal = ""
        self._keeper: asyncio.Task[None] | None = None
        self.connection: Connection | None = None

    async def open(self, sink: Sink) -> None:
        """
        Connect, and stay connected.

        Raises:
            ClstrError: The server cannot be used.
        """
        self._sink = sink
        connection = await self._connect()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(connection), context=contextvars.Context())
        self._keeper.add_done_callback(self._keeper_ended)

    def usable(self) -> Connection:
        """
        Return the connection if it is up.

        Raises:
            TransportUnavailableError: It is being renewed.
        """
        if self.connection is None or not self._is_up:
            raise TransportUnavailableError("the connection to Redis is lost; it is being renewed")
        return self.connection

    async def aclose(self) -> None:
        """Close the connection. May be called twice."""
        try:
            if self._keeper is not None:
                self._keeper.cancel()
                await asyncio.wait((self._keeper,))
        finally:
            connection, self.connection = self.connection, None
            if connection is not None:
                await connection.end()

    async def _connect(self) -> Connection:
        connection = await self._dialer.dial(self._new_connection)
        try:
            self.connection = connection
            await self._set_up(connection)
            if connection.lost.done():
                raise TransportUnavailableError(f"the connection to Redis is lost: {connection.lost.result()}")
        except BaseException as error:
            self.connection = None
            await connection.end()
            if isinstance(error, redis.exceptions.ResponseError):
                raise self._dialer.explain(error) from error
            raise
        self._is_up = True
        return connection

    async def _set_up(self, connection: Connection) -> None:
        """Subscribe first: a lease sends messages to the inbox."""
        await connection.ask(b"SUBSCRIBE", connection.inbox)
        for script in SCRIPTS:
            await connection.ask(b"SCRIPT", b"LOAD", script.text)
        await check_rights(connection, self._names)
        await self._renew(connection)

    def _new_connection(self, raw: AbstractConnection) -> Connection:
        return Connection(
            raw,
            inbox=self._names.new_inbox(),
            patience=self._heartbeat * MISSED_HEARTBEATS,
            on_message=self._receive,
            on_lost=self._down,
        )

    def _down(self, connection: Connection) -> None:
        if connection is not self.connection:
            return
        self.connection = None
        if self._is_up:
            self._is_up = False
            self._sink.down(connection.lost.result())

    async def _keep(self, connection: Connection) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            since = clock()
            try:
                await self._watch(connection)
            finally:
                await connection.end()
            if clock() - since < LONGEST_PAUSE:
                await self._rest()  # a server that takes us and throws us out at once is not to be asked at once
            else:
                self._pause = FIRST_PAUSE
            connection = await self._reconnect()

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        """It ends only by being cancelled; anything else is a defect, which must not leave a peer deaf in silence."""
        error = None if keeper.cancelled() else keeper.exception()
        if isinstance(error, Exception):
            self._logger.error("clstr-redis has a defect and cannot stay connected", exc_info=error)
            self._is_up = False
            self._sink.down(error, fatal=True)

    async def _watch(self, connection: Connection) -> None:
        """Renew the leases until the connection is lost: it says so, or it is mute for three heartbeats."""
        while not connection.lost.done():
            await asyncio.wait((connection.lost,), timeout=self._heartbeat)
            if not connection.lost.done():
                await self._beat(connection)

    async def _beat(self, connection: Connection) -> None:
        """Ask the server whether it still is what it was, and renew the leases."""
        try:
            await self._dialer.check(connection)
            await self._renew(connection)
        except redis.exceptions.ResponseError as error:
            self._complain(error)
        except ClstrError as error:  # a replica now, or lost: another connection may find the primary
            connection.lose(error)

    async def _renew(self, connection: Connection) -> None:
        """Renew the leases. A server that says no (it has no memory left) may say yes at the next heartbeat."""
        try:
            await self._leases.renew(connection)
        except redis.exceptions.ReadOnlyError as error:
            raise self._dialer.explain(error) from error
        except redis.exceptions.ResponseError as error:
            self._complain(error)
        else:
            self._refusal = ""

    def _complain(self, error: Exception) -> None:
        """Say it once, not at every heartbeat."""
        refusal = str(self._dialer.explain(error))
        if refusal != self._refusal:
            self._refusal = refusal
            self._logger.error("the leases cannot be renewed, and end if that lasts: %s", refusal)

    async def _reconnect(self) -> Connection:
        while True:
            try:
                connection = await self._connect()
            except (ClstrError, OSError) as error:
                self._logger.warning("Redis is still unreachable: %s", error)
            else:
                self._logger.info("connected to Redis again")
                self._sink.up()
                return connection
            await self._rest()

    async def _rest(self) -> None:
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
