"""
What is fuzzed: everything that reads bytes of strangers.

A target gets any bytes and returns; it raises `AssertionError`, or whatever the code under test must not let out, if
they break a promise.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence

from clstr._error_wire import decode_error
from clstr._url import TransportURL
from clstr._wire import CODECS, RequestFrame, decode_reply, decode_request, sniff
from clstr.abc import Subscription
from clstr.errors import ClstrError, InvalidEnvelopeError, InvalidReplyError
from clstr.spi import Engine, Link, Route, Sink, pack, unpack

SHARD = 1
TOKEN = 7
BEYOND = 2**63  # numbers from here on are in no message of ours


def _explains(error: Exception) -> None:
    assert str(error)


def request(data: bytes) -> None:
    """A request is read or refused, and what was read is written and read again as the same."""
    try:
        frame = decode_request(data, sniff(data))
    except InvalidEnvelopeError as error:
        _explains(error)
        return
    if any(abs(number) >= BEYOND for number in (frame.shard, frame.ttl_ms, frame.created_at_ms, frame.v, frame.depth)):
        return  # the engine refuses it when it looks at the fields
    for codec in CODECS.values():
        same = codec.new_request(*(getattr(frame, name) for name in RequestFrame.__struct_fields__))
        again = decode_request(codec.encode(same), codec)
        for name in RequestFrame.__struct_fields__:
            assert getattr(again, name) == getattr(frame, name), name


def reply(data: bytes) -> None:
    """A reply is read or refused; an error in it becomes one of ours."""
    try:
        frame = decode_reply(data)
    except InvalidReplyError as error:
        _explains(error)
        return
    assert frame.data is None or isinstance(frame.data, bytes)
    told = decode_error(frame)
    assert isinstance(told, ClstrError)
    assert told.maybe_executed in {True, False}
    assert len(str(told)) < len(data) + 4096


def packed(data: bytes) -> None:
    """What is unpacked is packed into the same bytes."""
    frames: list[memoryview] = []
    try:
        frames.extend(unpack(data))
    except ValueError as error:
        _explains(error)
        return
    assert pack(frames) == data


def url(data: bytes) -> None:
    """A URL is read, or refused with a sentence; its password shows in neither."""
    try:
        TransportURL.parse(data.decode("utf-8", "replace"))
    except ValueError as error:
        _explains(error)


class _Link(Link):
    """Takes what the engine sends."""

    def __init__(self) -> None:
        self.answers = 0

    async def open(self, sink: Sink) -> None:
        self.sink = sink

    async def hold(self, shards: Sequence[int]) -> None:
        """All are held."""

    async def drop(self, shards: Sequence[int]) -> None:
        """None is held."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        return None

    def reply(self, to: object, body: bytes) -> bool:
        decode_reply(body)
        self.answers += 1
        return True

    async def flush(self) -> None:
        """Everything is out."""

    async def aclose(self) -> None:
        """Nothing is left."""


class _Receiver:
    """An engine that serves one shard, on a loop of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.link = _Link()
        self.ran = 0
        self.engine, self.subscription = self.loop.run_until_complete(self._open())

    async def _open(self) -> tuple[Engine, Subscription]:
        engine = await Engine(self.link).open()
        return engine, await engine.subscribe([SHARD], self._handle)

    async def _handle(self, _: object) -> bytes:
        self.ran += 1
        return b""

    def ends(self) -> tuple[int, int, int]:
        """Count how messages have ended: run, answered, or neither."""
        return self.ran, self.link.answers, self.engine.stats.garbage + self.engine.stats.refused

    def receive(self, data: bytes) -> None:
        """Let a message arrive, and let everything that follows happen."""
        self.link.sink.request(SHARD, data, "somebody")
        self.loop.run_until_complete(asyncio.sleep(0))
        while self.engine.dispatcher.running():
            self.loop.run_until_complete(asyncio.sleep(0))


@functools.cache
def _receiver() -> _Receiver:
    return _Receiver()


def receiver(data: bytes) -> None:
    """A message runs once, or is refused; it is answered once unless it is a notify; and the next one is served."""
    receiver = _receiver()
    ran, answers, refused = receiver.ends()
    receiver.receive(data)
    now = receiver.ends()
    assert now[0] - ran + (now[2] > refused) == 1, "neither run nor refused"
    assert now[1] - answers <= 1, "answered twice"
    receiver.link.sink.answer(TOKEN, data)
    healthy = receiver.ran
    receiver.receive(b'{"shard":1,"type":"t","data":""}')
    assert receiver.ran == healthy + 1, "the next message does not run"


TARGETS: dict[str, Callable[[bytes], None]] = {each.__name__: each for each in (request, reply, packed, url, receiver)}
