"""The frames between a UNIX-socket link and its hub: length, kind, shard, token, body."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

_HEAD = struct.Struct(">IBIQ")
MAX_BODY_BYTES = 1024 * 1024


class Kind(IntEnum):
    """What a frame is; ``token`` means something else in each."""

    HOLD = 1  # link to hub: body is shards; token is a sequence number
    DROP = 2  # link to hub: the same
    SYNC = 3  # link to hub: nothing but the sequence number
    DONE = 4  # hub to link: the sequence number comes back
    REQUEST = 5  # link to hub: token of the sender; hub to link: number to reply to
    NOTIFY = 6  # the same, answered with ACCEPTED or REFUSED by the hub
    REPLY = 7  # link to hub: number to reply to; hub to link: token of the sender
    ACCEPTED = 8  # hub to link: token of the sender
    REFUSED = 9  # hub to link: token of the sender; nobody holds the shard


class Frame(NamedTuple):
    """One frame."""

    kind: int
    shard: int
    token: int
    body: bytes

    def encode(self) -> bytes:
        """Write the frame."""
        return _HEAD.pack(len(self.body), self.kind, self.shard, self.token) + self.body


class FrameReader:
    """Cuts a stream of bytes into frames, however the bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete; `ValueError` if one is larger than any peer may send."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            length, kind, shard, token = _HEAD.unpack_from(self._buffer)
            if length > MAX_BODY_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            yield Frame(kind, shard, token, body)


def encode_shards(shards: list[int]) -> bytes:
    """Write a list of shards."""
    return struct.pack(f">{len(shards)}I", *shards)


def decode_shards(body: bytes) -> tuple[int, ...]:
    """Read a list of shards."""
    return struct.unpack(f">{len(body) // 4}I", body)
