"""redis-py's connections, over sockets that we connect: to every address of a name, and not kept by forked children."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import Connection as PlainConnection

READ_AHEAD = 64 * 1024  # bytes: asyncio's own default

Dial = Callable[[], Awaitable[socket.socket]]


class _CountingReader(asyncio.StreamReader):
    """
    Counts what has arrived.

    Attributes:
        bytes_read: As it says, whether somebody has asked for it yet or not.
    """

    bytes_read: int = 0

    def feed_data(self, data: Any) -> None:  # Any: bytes or a view of them, by version
        """Take what the socket has received."""
        self.bytes_read += len(data)
        super().feed_data(data)


class Plain(PlainConnection):
    """A connection over whatever socket ``dial`` returns."""

    def __init__(self, dial: Dial, **options: Any) -> None:  # Any: redis-py's keywords
        super().__init__(**options)
        self._dial = dial

    async def _connect(self) -> None:
        self._reader, self._writer = await _open_stream(await self._dial())


class Encrypted(SSLConnection):
    """The same with TLS. redis-py reads the files anew for each connection."""

    def __init__(self, dial: Dial, **options: Any) -> None:  # Any: redis-py's keywords
        super().__init__(**options)
        self._dial = dial

    async def _connect(self) -> None:
        context = self.ssl_context.get()
        self._reader, self._writer = await _open_stream(await self._dial(), ssl=context, server_hostname=self.host)


class Local(UnixDomainSocketConnection):
    """The same over a UNIX socket."""

    def __init__(self, dial: Dial, **options: Any) -> None:  # Any: redis-py's keywords
        super().__init__(**options)
        self._dial = dial

    async def _connect(self) -> None:
        self._reader, self._writer = await _open_stream(await self._dial())


def bytes_read(raw: AbstractConnection) -> int:
    """Return how much has arrived on ``raw``."""
    reader = raw._reader  # noqa: SLF001 -- where redis-py keeps what `_connect` has made
    return reader.bytes_read if isinstance(reader, _CountingReader) else 0


async def _open_stream(connected: socket.socket, **tls: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As `asyncio.open_connection`, with a reader that counts."""
    loop = asyncio.get_running_loop()
    reader = _CountingReader(limit=READ_AHEAD, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    try:
        transport, _ = await loop.create_connection(lambda: protocol, sock=connected, **tls)
    except BaseException:
        connected.close()
        raise
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
