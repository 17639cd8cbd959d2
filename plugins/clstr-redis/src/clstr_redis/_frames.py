"""What travels in one message between two peers: who sends it, then requests and answers."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from clstr.spi import Buffer, pack, unpack

REQUEST, ANSWER = 0, 1
_HEAD = struct.Struct(">BIQ")  # what it is, the shard, the token


def request(shard: int, token: int, body: Buffer) -> bytes:
    """Write a request, or a notify."""
    return _HEAD.pack(REQUEST, shard, token) + body


def answer(token: int, body: Buffer) -> bytes:
    """Write an answer."""
    return _HEAD.pack(ANSWER, 0, token) + body


def join(inbox: bytes, frames: Iterable[bytes]) -> bytes:
    """Join frames behind the inbox that answers to them go to."""
    return pack([inbox, *frames])


def split(message: Buffer) -> tuple[bytes, Iterator[tuple[int, int, int, memoryview]]]:
    """
    Return the sender's inbox, and what each frame is, its shard, its token and its body.

    Raises:
        ValueError: It is not a message of ours; the frames before the fault have been yielded.
    """
    frames = unpack(message)
    inbox = next(frames, None)
    if inbox is None:
        raise ValueError("an empty message")
    return bytes(inbox), _read(frames)


def _read(frames: Iterator[memoryview]) -> Iterator[tuple[int, int, int, memoryview]]:
    for frame in frames:
        if len(frame) < _HEAD.size:
            raise ValueError(f"a frame of {len(frame)} bytes")
        kind, shard, token = _HEAD.unpack_from(frame)
        yield kind, shard, token, frame[_HEAD.size :]
