"""
What is fuzzed: everything that reads bytes of strangers.

A target gets any bytes and returns; it raises `AssertionError`, or whatever the code under test must not let out, if
they break a promise.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import logging
import socket
import traceback
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from clstr._messages.error_wire import decode_error
from clstr._messages.payload import decode_reply as decode_reply_payload
from clstr._messages.payload import decode_request as decode_payload
from clstr._messages.payload import encode as encode_payload
from clstr._messages.wire import CODECS, RequestFrame, decode_reply, decode_request, sniff
from clstr._urls.url import TransportURL
from clstr.abc import Subscription
from clstr.errors import AuthenticationError, ClstrError, InvalidEnvelopeError, InvalidReplyError
from clstr.spi import Buffer, Engine, Link, Route, Sink, open_stream, pack, unpack
from clstr_nats._connection import Connection as NatsConnection
from clstr_nats._dialer import Dialer as NatsDialer
from clstr_nats._dialer import _read_credentials as read_credentials
from clstr_nats._link import FIRST_SID, INBOX_SID, NatsLink
from clstr_nats._options import Options as NatsOptions
from clstr_nats._rights import Rights
from clstr_nats._subjects import Subjects
from clstr_redis import _frames as redis_frames
from clstr_redis._dialer import Dialer
from clstr_redis._link import RedisLink
from clstr_redis._names import Names
from clstr_redis._options import Options
from clusters.unix_link import UnixLink
from fuzz.folder import folder
from fuzz.zmq_targets import zmq_files, zmq_frame, zmq_inbox, zmq_outbox, zmq_zap

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


class Order(msgspec.Struct):
    """What a program's messages are made of."""

    id: uuid.UUID
    at: dt.datetime
    lines: dict[str, list[tuple[int, float | None]]]
    before: Order | None = None


def payload(data: bytes) -> None:
    """A payload is what the handler's type says, or refused, in a request as in a reply."""
    for decode, refusal in ((decode_payload, InvalidEnvelopeError), (decode_reply_payload, InvalidReplyError)):
        for type_ in (Order, list[Order], str, None, bytes):
            try:
                value = decode(data, type_)
            except refusal as error:
                _explains(error)
            else:
                assert type_ is bytes or decode(encode_payload(value), type_) == value


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
        return self.ran, self.link.answers, self.engine.counters.garbage + self.engine.counters.refused.total()

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


class _Noted:
    """A sink that takes what a link reads."""

    def __init__(self) -> None:
        self.calls = 0

    def request(self, shard: int, body: Buffer, to: object, read_at: float | None = None) -> None:
        self.calls += 1
        assert shard >= 0
        assert bytes(body) is not None

    def answer(self, token: int, body: Buffer, route: Route = None) -> None:
        self.calls += 1
        assert token >= 0

    def refused(self, token: int, error: ClstrError, *, again_after: float | None = None) -> None:
        self.calls += 1

    def accepted(self, token: int) -> None:
        self.calls += 1

    def garbage(self, why: str) -> None:
        self.calls += 1
        assert why


@functools.cache
def _redis() -> tuple[RedisLink, _Noted]:
    async def make() -> tuple[RedisLink, _Noted]:
        logger = logging.getLogger("fuzz")
        dialer = Dialer(Options(scheme="redis", hosts=(("127.0.0.1", 1),)), 1.0, logger)
        link, noted = RedisLink(dialer, Names("clstr", "peer"), 1.0, logger), _Noted()
        link._sink = noted  # type: ignore[assignment]  # a part of a sink
        return link, noted

    return asyncio.run(make())


def redis_inbox(data: bytes) -> None:
    """A message in an inbox is read, or counted as garbage; never silently lost, never an error of the reader."""
    link, noted = _redis()
    for message in (data, redis_frames.join(Names("clstr", "other").new_inbox(), [data or b"x"])):
        before = noted.calls
        link._receive(message, 0.0)
        assert noted.calls > before or _holds_nothing(message), "silently dropped"


def _holds_nothing(message: bytes) -> bool:
    """Tell whether a message has no frame beside its inbox: it asks for nothing."""
    return len([*unpack(message)]) == 1


@functools.cache
def _nats() -> tuple[NatsLink, _Noted]:
    async def make() -> tuple[NatsLink, _Noted]:
        logger, subjects = logging.getLogger("fuzz"), Subjects("clstr", "_INBOX")
        dialer = NatsDialer(NatsOptions(servers=()), "peer", 1.0, logger)
        link, noted = NatsLink(dialer, subjects, 1.0, logger), _Noted()
        link._sink = noted  # type: ignore[assignment]  # a part of a sink
        link._rights = Rights(subjects, lambda _token, _error: None, logger)
        return link, noted

    return asyncio.run(make())


def nats_messages(data: bytes) -> None:
    """What the server hands over is for a shard, an answer to a request or a probe, or garbage, whatever it says."""
    link, noted = _nats()
    subject, _, rest = data.partition(b"\n")
    headers, _, body = rest.partition(b"\n")
    inbox = link._subjects.inbox[:-1].encode()
    for sid, name in ((INBOX_SID, inbox + subject), (INBOX_SID, subject), (FIRST_SID + SHARD, subject)):
        before = noted.calls
        link._receive(sid, name, b"reply", headers, body)
        is_of_probe = sid == INBOX_SID and name == link._probe_reply_to
        assert noted.calls == before + (not is_of_probe)


def nats_server(data: bytes) -> None:
    """What a server says, in one piece or in two, is acted on or ends the connection; our part never fails."""
    for pieces in ([data], [data[: len(data) // 2], data[len(data) // 2 :]]):
        asyncio.run(_read_from_nats(pieces))


async def _read_from_nats(pieces: list[bytes]) -> None:
    rights = Rights(Subjects("clstr", "_INBOX"), lambda _token, error: _explains(error), logging.getLogger("fuzz"))
    rights.sending(SHARD, TOKEN)
    connection = NatsConnection(lambda *message: None, rights.deny, lambda lost: _explains(lost.lost.result()))
    try:
        for piece in pieces:
            await connection._parser.parse(piece)
    except Exception as error:
        if "clstr_nats" in traceback.extract_tb(error.__traceback__)[-1].filename:
            raise
    rights.deny(b"".join(pieces).decode("utf-8", "replace"))


def nats_credentials(data: bytes) -> None:
    """A file with credentials is handed on, or refused with a sentence."""
    file = folder() / "creds"
    file.write_bytes(data)
    try:
        read = read_credentials({"user_credentials": str(file)})
    except AuthenticationError as error:
        _explains(error)
    else:
        assert "BEGIN NATS USER JWT" in read["user_credentials"]


def unix_link(data: bytes) -> None:
    """What a hub says is read, or is the end of the connection."""
    asyncio.run(_read_from_hub(data))


async def _read_from_hub(data: bytes) -> None:
    noted, ours, hubs = _Noted(), *socket.socketpair()
    link = UnixLink(Path("hub"))
    link._sink = noted  # type: ignore[assignment]  # a part of a sink
    connection = link._connected(*await open_stream(ours))
    with hubs:
        hubs.sendall(data)
    assert isinstance(await connection.lost, ConnectionResetError | ValueError)
    await connection.end()


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        request,
        reply,
        payload,
        packed,
        url,
        receiver,
        redis_inbox,
        nats_messages,
        nats_server,
        nats_credentials,
        unix_link,
        zmq_frame,
        zmq_inbox,
        zmq_outbox,
        zmq_zap,
        zmq_files,
    )
}
