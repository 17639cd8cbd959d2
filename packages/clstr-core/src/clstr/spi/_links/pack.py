"""Many frames in one message, for brokers whose messages are dear."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from clstr._messages.wire import Buffer

_LENGTH = struct.Struct(">I")
MAX_FRAMES = 4096  # a stranger must not make a million frames out of a megabyte


def pack(frames: Iterable[Buffer]) -> bytes:
    """
    Join ``frames``, each behind its length as 4 bytes, big-endian.

    Args:
        frames: At most 4,096, none of them empty.
    """
    parts: list[Buffer] = []
    for frame in frames:
        parts.append(_LENGTH.pack(len(frame)))
        parts.append(frame)
    return b"".join(parts)


def unpack(message: Buffer) -> Iterator[memoryview]:
    """
    Split what `pack` joined; the frames are views into ``message``.

    Raises:
        ValueError: ``message`` was not made by `pack`. The frames before the fault have been yielded.
    """
    view = memoryview(message)
    offset = count = 0
    while offset < len(view):
        start = offset + _LENGTH.size
        if start > len(view):
            raise ValueError(f"a frame's length is cut off at byte {offset}")
        offset = start + _LENGTH.unpack_from(view, offset)[0]
        if not start < offset <= len(view):
            raise ValueError(f"a frame from byte {start} to {offset} does not fit a message of {len(view)}")
        count += 1
        if count > MAX_FRAMES:
            raise ValueError(f"a message of more than {MAX_FRAMES} frames")
        yield view[start:offset]
