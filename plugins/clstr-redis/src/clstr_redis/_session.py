"""The connection that is in use: dialled, watched, and replaced when it is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis.exceptions
from redis.asyncio.connection import AbstractConnection

from clstr.spi import Reconnector
from clstr_redis._connection import Connection
from clstr_redis._dialer import Dialer
from clstr_redis._leases import Leases
from clstr_redis._names import Names
from clstr_redis._rights import check_rights, subscribe

MISSED_HEARTBEATS = 3


class Session(Reconnector[Connection]):
    """
    Keeps one peer connected.

    Args:
        dialer: Opens connections.
        names: What inboxes are called.
        leases: What each connection leases again.
        heartbeat: Seconds between renewals of the leases.
        receive: Gets each message that arrives, and when it was read: loop time. Must not raise.
        logger: Where it says what happened to the connection.
    """

    def __init__(
        self,
        dialer: Dialer,
        names: Names,
        leases: Leases,
        *,
        heartbeat: float,
        receive: Callable[[bytes, float], None],
        logger: logging.Logger,
    ) -> None:
        super().__init__(
            "Redis",
            dial=self._open_one,
            set_up=self._prepare,
            beat=self._renew_all,
            heartbeat=heartbeat,
            logger=logger,
        )
        self._dialer = dialer
        self._names = names
        self._leases = leases
        self._patience = heartbeat * MISSED_HEARTBEATS
        self._receive = receive
        self._refusal = ""

    async def _open_one(self) -> Connection:
        return await self._dialer.dial(self._new_connection)

    def _new_connection(self, raw: AbstractConnection) -> Connection:
        return Connection(
            raw,
            inbox=self._names.new_inbox(),
            patience=self._patience,
            on_message=self._receive,
            on_lost=self.down,
        )

    async def _prepare(self, connection: Connection) -> None:
        """Subscribe first: a lease sends messages to the inbox."""
        try:
            await subscribe(connection, self._names)
            await connection.load_scripts()
            await check_rights(connection, self._names)
            await self._renew(connection)
        except redis.exceptions.ResponseError as error:
            raise self._dialer.explain(error) from error

    async def _renew_all(self, connection: Connection) -> None:
        """Ask the server whether it still is what it was, and renew the leases."""
        try:
            await self._dialer.check(connection)  # a replica now: another connection may find the primary
            await self._renew(connection)
        except redis.exceptions.ResponseError as error:
            self._complain(error)

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
