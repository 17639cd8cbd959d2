"""Reading many messages at once: nats-py's parser takes three matches and a coroutine for each of them."""

from __future__ import annotations

from collections.abc import Callable

from nats.aio.client import Client
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from clstr.spi import Buffer

CRLF = b"\r\n"
FEWEST_WORDS, MOST_WORDS = 4, 5  # of the line before a payload: the reply's address may be missing
LARGE = 64 * 1024  # bytes: copying them costs more than a call to the system does
OnMessage = Callable[[int, bytes, bytes, bytes, Buffer], None]


class MessageParser(Parser):
    """
    Takes whole messages without headers out of what was read; nats-py's parser reads everything else.

    Args:
        client: Whose parser it is.
        on_message: Gets the subscription's id, the subject, the reply's address, no headers and the payload.
    """

    def __init__(self, client: Client, on_message: OnMessage) -> None:
        super().__init__(client)
        self._on_message = on_message
        self._begun: list[bytes] = []  # the pieces of a message that is not whole yet
        self._missing = 0  # bytes of it

    async def parse(self, data: bytes = b"") -> None:
        """Read ``data``, which goes on where the last call's ended."""
        if self._missing:
            self._begun.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._begun)
            self._begun.clear()
        elif self.state == AWAITING_CONTROL_LINE and self.buf:
            data = bytes(self.buf) + data
            self.buf.clear()
        at = 0
        while at < len(data):
            if self.state == AWAITING_CONTROL_LINE:
                at, self._missing = self._take(data, at)
                if self._missing:
                    self._begun.append(data[at:])
                    return
                # One line for nats-py, or what there is of it.
                line_end = data.find(CRLF, at)
                end = len(data) if line_end < 0 else line_end + len(CRLF)
            else:  # it awaits the payload of a message with headers
                end = at + self.needed + len(CRLF) - len(self.buf)
            await super().parse(data[at:end])
            at = end

    def _take(self, data: bytes, at: int) -> tuple[int, int]:
        """
        Hand over the whole messages that ``data`` has from ``at`` on.

        Returns:
            Where they end, and how many bytes the message that follows lacks if it is not whole, or 0.
        """
        size = len(data)
        while data.startswith(b"MSG ", at) and (line_end := data.find(CRLF, at)) >= 0:
            words = data[at:line_end].split(b" ")
            if not FEWEST_WORDS <= len(words) <= MOST_WORDS:
                break
            subject, sid, length = words[1], words[2], words[-1]
            if not (subject and sid.isdigit() and length.isdigit()):
                break
            start = line_end + len(CRLF)
            end = start + int(length)
            if end + len(CRLF) > size:
                return at, end + len(CRLF) - size
            payload = data[start:end] if end - start < LARGE else memoryview(data)[start:end]
            self._on_message(int(sid), subject, words[3] if len(words) == MOST_WORDS else b"", b"", payload)
            at = end + len(CRLF)
        return at, 0
