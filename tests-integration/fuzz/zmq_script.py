"""Scripts: what strangers say to a peer of clstr-zmq, one step after another, as bytes that a fuzzer can change."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from clstr.spi import pack
from clstr_zmq._protocol import Control, Hello, Refused, encode

_STEP = struct.Struct(">BH")

# What a step of a script does, beside who does it.
RAW, PACKED, DEAF, SEVERAL = range(4)
BEAT, LONG, LEAVE, TURN = range(4)
TIME = 3  # instead of a stranger


def parts(how: int, body: bytes) -> list[bytes]:
    """Return the ZeroMQ frames of what is said."""
    if how == RAW:
        return [body]
    return [pack([body]) if body else b"", b"more"][: 2 if how == SEVERAL else 1]


def steps(script: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the steps of a script."""
    at = 0
    while at + _STEP.size <= len(script):
        step, size = _STEP.unpack_from(script, at)
        at += _STEP.size
        yield step, script[at : at + size]
        at += size


def says(who: int, message: Hello | Control | Refused | bytes, how: int = PACKED) -> bytes:
    """Write the step in which a stranger says something."""
    body = message if isinstance(message, bytes) else encode(message)
    return _STEP.pack(who | how << 2, len(body)) + body


def passes(how: int, who: int = 0) -> bytes:
    """Write the step in which time passes, or in which somebody closes its connection."""
    return _STEP.pack(TIME | how << 2 | who << 4, 0)
