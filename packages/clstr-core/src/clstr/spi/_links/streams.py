"""asyncio's streams over a socket that is connected, with a reader that says how much it has received, and when."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

READ_AHEAD = 64 * 1024  # bytes: asyncio's own default


class MeteredReader(asyncio.StreamReader):
    """
    A reader that counts what has arrived, and notes when.

    Args:
        limit: Bytes that it takes before it stops receiving, 65,536 by default; twice as many at most.

    Attributes:
        bytes_read: The bytes that have arrived, whether somebody has read them from here yet or not.
        read_at: When the last of them came from the socket: loop time in seconds. What waits in the reader has been in
            this process since then, or longer: messages among it have this as their time for `Sink.request`.
    """

    def __init__(self, *, limit: int = READ_AHEAD) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(limit=limit, loop=loop)
        self._now = loop.time
        self.bytes_read: int = 0
        self.read_at: float = loop.time()

    def feed_data(self, data: Any) -> None:  # Any: bytes or a view of them, by version
        """Take what the socket has received."""
        self.bytes_read += len(data)
        self.read_at = self._now()
        super().feed_data(data)


async def open_stream(
    connected: socket.socket, *, limit: int = READ_AHEAD, **tls: Any
) -> tuple[MeteredReader, asyncio.StreamWriter]:
    """
    As `asyncio.open_connection`, over a socket, with a `MeteredReader`.

    Args:
        connected: A TCP or UNIX socket. It belongs to the stream on return, and is closed if this fails.
        limit: Bytes that the reader takes before it stops receiving, 65,536 by default; twice as many at most.
        tls: ``ssl``, ``server_hostname`` and the like, as for `asyncio.loop.create_connection`.

    Raises:
        OSError: The socket is not connected, or TLS failed.
    """
    loop = asyncio.get_running_loop()
    reader = MeteredReader(limit=limit)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    try:
        transport, _ = await loop.create_connection(lambda: protocol, sock=connected, **tls)
    except BaseException:
        connected.close()
        raise
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
