"""
One connection to one Redis server, and everything that needs private names of redis-py.

redis-py dials, authenticates and parses (RESP3). Commands go out as they come, many at once, and their replies find
their callbacks in order; pushed messages come in between. Nothing is ever sent again: a connection ends once, and
another one takes its place.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import redis.exceptions
from redis.asyncio.connection import AbstractConnection

Reply = Callable[[Any], None]  # Any: whatever a command answers with, or the error that it answers with
_PUSHED = object()


class Connection:
    """
    A connection in use.

    Args:
        raw: redis-py's, not yet connected.
        on_message: Gets the bytes of each message to a channel that is subscribed to. Must not raise.
        on_lost: Gets the reason, once, when the connection is of no use any more.
    """

    def __init__(
        self, raw: AbstractConnection, on_message: Callable[[bytes], None], on_lost: Callable[[Exception], None]
    ) -> None:
        self._raw = raw
        self._on_message = on_message
        self._on_lost = on_lost
        self._is_lost = False
        self._replies: deque[Reply] = deque()
        self._subscribed: dict[bytes, asyncio.Future[None]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def dial(self) -> None:
        """
        Connect, authenticate, and read from then on.

        Raises:
            redis.exceptions.RedisError: The server refuses.
            OSError: It cannot be reached.
        """
        await self._raw.connect()
        self._raw._parser.set_pubsub_push_handler(self._pushed)
        writer = self._raw._writer
        assert writer is not None
        self._socket = writer.transport
        self._reader = asyncio.get_running_loop().create_task(self._read())
        self._reader.add_done_callback(self._reader_ended)

    @property
    def unsent_bytes(self) -> int:
        """What the socket has not taken yet."""
        return self._socket.get_write_buffer_size()

    def send(self, reply: Reply, *command: bytes) -> None:
        """Send a command now; ``reply`` gets its answer, or the `redis.exceptions.ResponseError` that it is."""
        self._replies.append(reply)
        self._socket.write(b"".join(_encode(command)))

    def send_all(self, commands: Sequence[tuple[Reply, Sequence[bytes]]]) -> None:
        """Send several commands with one write."""
        parts: list[bytes] = []
        for reply, command in commands:
            self._replies.append(reply)
            parts += _encode(command)
        self._socket.write(b"".join(parts))

    def call(self, *command: bytes) -> asyncio.Future[Any]:
        """Send a command now; the future gets its answer, an error included, and never raises."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def resolve(reply: Any) -> None:
            if not answer.done():
                answer.set_result(reply)

        self.send(resolve, *command)
        return answer

    def subscribe(self, channel: bytes) -> asyncio.Future[None]:
        """Subscribe to a channel; the future is done when the server has confirmed it."""
        confirmed = self._subscribed[channel] = asyncio.get_running_loop().create_future()
        self._socket.write(b"".join(_encode((b"SUBSCRIBE", channel))))
        return confirmed

    async def end(self) -> None:
        """Close the socket; what it has not taken is given up. Never raises."""
        self._is_lost = True
        self.abort()
        if self._reader is not None and not self._reader.done():
            self._reader.cancel()
            await asyncio.wait((self._reader,))

    def abort(self) -> None:
        """Close the socket at once."""
        writer = self._raw._writer
        if writer is not None:
            writer.transport.abort()

    async def _read(self) -> None:
        """Hand over replies and messages until the connection ends."""
        while True:
            try:
                reply = await self._raw.read_response(disable_decoding=True, timeout=math.inf, push_request=True)
            except redis.exceptions.ResponseError as error:
                reply = error
            if reply is not _PUSHED:
                self._replies.popleft()(reply)

    async def _pushed(self, push: list[Any]) -> object:
        kind, channel, *rest = push
        if kind == b"message":
            self._on_message(rest[0])
        elif kind == b"subscribe" and channel in self._subscribed:
            self._subscribed.pop(channel).set_result(None)
        return _PUSHED

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        error = None if reader.cancelled() else reader.exception()
        self._lose(error if isinstance(error, Exception) else ConnectionError("the connection was closed"))

    def _lose(self, error: Exception) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._on_lost(error)


def _encode(command: Sequence[bytes]) -> list[bytes]:
    parts = [b"*%d\r\n" % len(command)]
    parts += [b"$%d\r\n%s\r\n" % (len(part), part) for part in command]
    return parts
