"""redis-py's connections, over sockets that we connect: to every address of a name, and not kept by forked children."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import Connection as PlainConnection

from clstr.spi import MeteredReader, open_stream

Dial = Callable[[], Awaitable[socket.socket]]


class Plain(PlainConnection):
    """A connection over whatever socket ``dial`` returns."""

    def __init__(self, dial: Dial, **options: Any) -> None:  # Any: redis-py's keywords
        super().__init__(**options)
        self._dial = dial

    async def _connect(self) -> None:
        self._reader, self._writer = await open_stream(await self._dial())


class Encrypted(SSLConnection):
    """The same with TLS. redis-py reads the files anew for each connection."""

    def __init__(self, dial: Dial, **options: Any) -> None:  # Any: redis-py's keywords
        super().__init__(**options)
        self._dial = dial

    async def _connect(self) -> None:
        context = self.ssl_context.get()
        self._reader, self._writer = await open_stream(await self._dial(), ssl=context, server_hostname=self.host)


class Local(UnixDomainSocketConnection):
    """The same over a UNIX socket."""

    def __init__(self, dial: Dial, **options: Any) -> None:  # Any: redis-py's keywords
        super().__init__(**options)
        self._dial = dial

    async def _connect(self) -> None:
        self._reader, self._writer = await open_stream(await self._dial())


def metered(raw: AbstractConnection) -> MeteredReader:
    """Return what counts the bytes that arrive on ``raw``, which is connected."""
    return cast("MeteredReader", raw._reader)  # noqa: SLF001 -- where redis-py keeps what `_connect` has made
