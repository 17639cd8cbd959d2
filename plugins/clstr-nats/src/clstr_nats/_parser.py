"""Reading many messages at once: nats-py's parser takes three matches and a coroutine for each of them."""

from __future__ import annotations

import re
from collections.abc import Callable

from nats.aio.client import Client
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

# Subjects may hold any bytes but these; nats-py ends them at other white space too, and then the connection.
_MESSAGE = re.compile(rb"MSG ([^ \r\n]+) (\d{1,10}) (?:([^ \r\n]+) )?(\d{1,10})\r\n").match
OnMessage = Callable[[int, bytes, bytes, bytes, bytes], None]


class MessageParser(Parser):
    """
    Takes whole messages without headers out of what was read; nats-py's parser reads everything else.

    Args:
        client: Whose parser it is.
        on_message: Gets the subscription's id, the subject, the reply's address, no headers and the payload.

    Attributes:
        bytes_read: What it was given.
    """

    def __init__(self, client: Client, on_message: OnMessage) -> None:
        super().__init__(client)
        self._on_message = on_message
        self.bytes_read: int = 0

    async def parse(self, data: bytes = b"") -> None:
        """Read ``data``, which goes on where the last call's ended."""
        self.bytes_read += len(data)
        if self.state == AWAITING_CONTROL_LINE:  # else the rest of a payload comes first
            if self.buf:
                data = bytes(self.buf) + data
                self.buf.clear()
            data = data[self._take(data) :]
        await super().parse(data)

    def _take(self, data: bytes) -> int:
        """Hand over the whole messages that ``data`` begins with, and return where they end."""
        at, size = 0, len(data)
        while (line := _MESSAGE(data, at)) is not None:
            subject, sid, reply, payload_bytes = line.groups(b"")
            start = line.end()
            end = start + int(payload_bytes)
            if end + 2 > size:
                break
            self._on_message(int(sid), subject, reply, b"", data[start:end])
            at = end + 2
        return at
