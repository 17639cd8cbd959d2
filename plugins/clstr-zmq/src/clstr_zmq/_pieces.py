"""
Large messages in pieces, each a ZeroMQ message of its own.

ZeroMQ tells of a message only when it is whole. On a slow link a large one would look like silence, and a peer that is
busy sending it would be taken for dead; a piece that arrives proves that its sender lives. Pieces also bound what
ZeroMQ keeps for a loop that does not read, since it counts messages and not bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from clstr.spi import Buffer

PIECE_BYTES = 64 * 1024  # 0.5 s at 1 Mbit/s: well inside of three heartbeats
_MARK = 0x50  # a message of `pack` that begins with this byte would have a frame of more than a gigabyte
_HEAD = struct.Struct(">BII")  # the mark, the bytes before this piece, and those of the whole message
SLACK_BYTES = 64 * 1024  # what a message has beside its body
MAX_PIECE = _HEAD.size + PIECE_BYTES  # bytes


def split(message: bytes) -> Iterator[bytes]:
    """Yield a message that is longer than ``PIECE_BYTES`` in pieces; a shorter one as it is."""
    total = len(message)
    if total <= PIECE_BYTES:
        yield message
        return
    view = memoryview(message)
    for offset in range(0, total, PIECE_BYTES):
        yield _HEAD.pack(_MARK, offset, total) + view[offset : offset + PIECE_BYTES]


class Pieces:
    """
    Joins the pieces that arrive on one connection. A sender that begins anew has given up what it had begun.

    Args:
        max_bytes: The largest message.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._joined = bytearray()
        self._total = 0

    def add(self, message: bytes) -> Buffer:
        """
        Return what arrived if it is a whole message, the message that it completes, or nothing if more pieces follow.

        Raises:
            ValueError: It continues nothing, or is a part of a message that is too large.
        """
        if not message or message[0] != _MARK:
            return message
        try:
            _, offset, total = _HEAD.unpack_from(message)
        except struct.error:
            raise ValueError("a piece that is cut off") from None
        if offset == 0:
            self._joined, self._total = bytearray(), total
        if total > self._max_bytes or total != self._total or offset != len(self._joined):
            self._joined, self._total = bytearray(), 0
            raise ValueError(f"a piece at byte {offset} of {total} that does not follow the last one, or is too large")
        self._joined += memoryview(message)[_HEAD.size :]
        if len(self._joined) < total:
            return b""
        joined, self._joined, self._total = self._joined, bytearray(), 0
        return joined
