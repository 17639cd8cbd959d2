"""Bytes to begin with: real messages, from which a fuzzer gets to unreal ones sooner."""

from __future__ import annotations

from collections.abc import Iterator

from clstr._error_wire import encode_error
from clstr._wire import CODECS
from clstr.errors import OverloadedError
from clstr.spi import pack
from clstr_redis import _frames as redis_frames

URLS = ("nats://user:secret@host:4222,[::1]:4223/path?prefix=a.b&codec=json", "memory://name", "redis+unix:///a/b")

# What fuzzing has found: each is run against every target by the tests.
FOUND = (
    b'{"SHARD":' + b"8" * 90 + b',"data":[]}',  # a number that no codec could write again
    b"-7_2\nNATS0 .0 503\n",  # a number that is no token of ours
)


def seeds() -> Iterator[bytes]:
    """Yield them."""
    for codec in CODECS.values():
        frame = codec.new_request(1, "Type", b"data", "_INBOX.x", {"x-clstr-key": "k"}, 5000, 1, 1, True, 2, ["a", "b"])
        yield codec.encode(frame)
        yield codec.encode(codec.new_request(1, "Type", b"data"))
        yield codec.encode(codec.new_reply(b"data"))
        yield encode_error(codec, OverloadedError("max_queue", 1000))
    yield b'{"SHARD":1,"Type":null,"data":[1,2,255]}'
    yield pack([b"one", b"two"])
    inbox = b"clstr:in:other:0123456789abcdef"
    yield redis_frames.join(inbox, [redis_frames.request(1, 7, b"{}"), redis_frames.answer(7, b"{}")])
    yield b"7_1\nNATS/1.0 503\n"
    yield from (url.encode() for url in URLS)
    yield from FOUND
