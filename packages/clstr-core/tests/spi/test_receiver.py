"""Everything that arrives: read, checked, and never the end of the reader (T15)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr._limits import MAX_CHAIN_BYTES, MAX_CHAIN_KEYS, MAX_HEADER_BYTES, MAX_TTL_MS
from clstr._messages.envelope import Envelope
from clstr._messages.wire import JSON, MSGPACK, Buffer, Codec
from clstr.errors import (
    ClstrError,
    ConnectionLostError,
    HandlerError,
    InvalidEnvelopeError,
    InvalidReplyError,
    NoShardSubscriberError,
    NotOwnerError,
    PayloadTooLargeError,
    RequestTimeoutError,
    ReservedHeaderError,
    TransportUnavailableError,
)
from clstr.spi._engine import Engine
from clstr.spi._receiver import MAX_DEPTH
from spi.fakes import FakeLink, OpenEngine, echo, encode_answer, message, read_answer, ticks
from spi.virtual_time import VirtualLoop

DEEP = b"[" * 100_000


class Listener:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Envelope] = []

    async def __call__(self, envelope: Envelope) -> bytes:
        self.got.append(envelope)
        return envelope.data


@pytest.fixture
async def listener(engine: Engine) -> Listener:
    listener = Listener()
    await engine.subscribe([1], listener)
    return listener


# Requests that are in order.


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
async def test_a_message_reaches_the_handler_whole(link: FakeLink, listener: Listener, codec: Codec) -> None:
    headers = {"a": "b", "x-clstr-key": "k"}
    link.deliver("Get", b"data", codec=codec, headers=headers, ttl_ms=5000, created_at_ms=1)
    await ticks()
    (envelope,) = listener.got
    assert (envelope.shard, envelope.type, envelope.data, envelope.ttl_ms) == (1, "Get", b"data", 5000)
    assert (dict(envelope.headers), envelope.key) == (headers, "k")
    assert link.answer_to("Get") == b"data"


async def test_its_age_counts_from_reading_it(link: FakeLink, listener: Listener) -> None:
    before = time.time_ns() // 1_000_000
    link.deliver("t", created_at_ms=1, ttl_ms=5000)
    await ticks()
    assert before <= listener.got[0].created_at_ms <= time.time_ns() // 1_000_000
    assert not listener.got[0].expired()


@pytest.mark.parametrize(
    ("ttl_ms", "meant"), [(-1, 0), (-(2**63), 0), (MAX_TTL_MS + 1, MAX_TTL_MS), (2**63 - 1, MAX_TTL_MS), (7, 7)]
)
async def test_a_ttl_of_a_go_peer_means_what_go_means_by_it(
    link: FakeLink, listener: Listener, ttl_ms: int, meant: int
) -> None:
    """clstr-go runs what has a TTL of 0 or less without a limit, and knows no upper bound."""
    link.deliver("t", codec=JSON, ttl_ms=ttl_ms)
    await ticks()
    assert [envelope.ttl_ms for envelope in listener.got] == [meant]
    assert link.answer_to("t") == b""


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
async def test_the_answer_is_in_the_codec_of_the_request(
    engine: Engine, link: FakeLink, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = []

    def reply(to: object, body: bytes) -> bool:
        bodies.append(body)
        return True

    monkeypatch.setattr(link, "reply", reply)
    await engine.subscribe([1], echo)
    link.deliver("t", codec=codec, shard=2)
    link.deliver("t", codec=codec)
    await ticks()
    assert isinstance(read_answer(bodies[0]), NotOwnerError)
    assert read_answer(bodies[1]) == b""
    assert [body[:1] == b"{" for body in bodies] == [codec is JSON] * 2


async def test_missing_data_is_empty_data(link: FakeLink, listener: Listener) -> None:
    link.sink.request(1, b'{"shard":1,"type":"t","data":null}', "go")
    await ticks()
    assert listener.got[0].data == b""
    assert link.answer_to("go") == b""


async def test_buffers_of_any_kind_are_read(link: FakeLink, listener: Listener) -> None:
    body = MSGPACK.encode(MSGPACK.new_request(1, "t", b"data"))
    for buffer in (body, bytearray(body), memoryview(body)):
        link.sink.request(1, buffer, type(buffer))
    await ticks()
    assert [envelope.data for envelope in listener.got] == [b"data"] * 3


async def test_the_link_chooses_where_the_answer_goes(open_engine: OpenEngine) -> None:
    class Addressed(FakeLink):
        def reply_address(self, to: object, reply_to: str) -> object:
            return reply_to if reply_to.startswith("inbox.") else None

    link = Addressed()
    engine = await open_engine(link)
    await engine.subscribe([1], echo)
    link.deliver("t", reply_to="inbox.8", shard=2)
    link.deliver("t", reply_to="inbox.7")
    link.deliver("t", reply_to="elsewhere")
    await ticks()
    assert [to for to, _ in link.replies] == ["inbox.8", "inbox.7"]


# Requests that are refused.


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"v": 2}, InvalidEnvelopeError, "v is 2: this peer speaks protocol version 1"),
        ({"v": -1}, InvalidEnvelopeError, "v is -1"),
        ({"depth": -1}, InvalidEnvelopeError, "depth must be between 0 and"),
        ({"depth": MAX_DEPTH + 1}, InvalidEnvelopeError, "depth must be between 0 and"),
        ({"chain": ["k"] * (MAX_CHAIN_KEYS + 1)}, InvalidEnvelopeError, f"length <= {MAX_CHAIN_KEYS}"),
        ({"chain": ["k" * (MAX_CHAIN_BYTES + 1)]}, InvalidEnvelopeError, "chain exceeds"),
        ({"v": 1, "ttl_ms": -1}, InvalidEnvelopeError, "ttl_ms must be between"),
        ({"v": 1, "ttl_ms": MAX_TTL_MS + 1}, InvalidEnvelopeError, "ttl_ms must be between"),
        ({"headers": {"x-clstr-depth": "1"}}, ReservedHeaderError, "x-clstr-depth"),
        ({"headers": {"X-CLSTR-KEY": "k"}}, ReservedHeaderError, "X-CLSTR-KEY"),
        ({"headers": {"": "v"}}, InvalidEnvelopeError, "empty name"),
        ({"headers": {"a": "b\r\nc"}}, InvalidEnvelopeError, "control characters"),
        ({"headers": {"a": "b" * (MAX_HEADER_BYTES + 1)}}, InvalidEnvelopeError, "header"),
        ({"data": bytes(1024 * 1024 + 1)}, PayloadTooLargeError, "1048577 bytes"),
    ],
    ids=lambda value: f"{value}"[:24] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
async def test_a_wrong_field_is_refused_by_name(
    engine: Engine,
    link: FakeLink,
    listener: Listener,
    fields: dict[str, Any],  # Any: a frame's
    error: type[ClstrError],
    text: str,
    codec: Codec,
) -> None:
    link.deliver("t", codec=codec, **fields)
    answer = link.answer_to("t")
    assert isinstance(answer, error)
    assert text in str(answer)
    assert not answer.maybe_executed
    assert engine.counters.refused.total() == 1
    await ticks()
    assert listener.got == []


async def test_a_type_that_is_too_long_or_odd_is_refused(link: FakeLink, listener: Listener) -> None:
    link.deliver("x" * 257, to="long")
    link.deliver("a\x00b", to="odd")
    await ticks()
    assert isinstance(link.answer_to("long"), InvalidEnvelopeError)
    assert isinstance(link.answer_to("odd"), InvalidEnvelopeError)
    assert listener.got == []


async def test_a_message_that_came_for_another_shard_is_refused(link: FakeLink, listener: Listener) -> None:
    link.sink.request(1, MSGPACK.encode(MSGPACK.new_request(2, "t", b"")), "go")
    answer = link.answer_to("go")
    assert isinstance(answer, InvalidEnvelopeError)
    assert "shard is 2, but the message came for shard 1" in str(answer)


async def test_a_shard_that_nobody_holds_is_not_ours(engine: Engine, link: FakeLink, listener: Listener) -> None:
    link.deliver("t", shard=2)
    answer = link.answer_to("t")
    assert isinstance(answer, NotOwnerError)
    assert (answer.shard, answer.maybe_executed) == (2, False)
    assert engine.counters.refused.total() == 1


async def test_a_deep_but_legal_request_is_handled(link: FakeLink, listener: Listener) -> None:
    chain = ["k" * (MAX_CHAIN_BYTES // MAX_CHAIN_KEYS)] * MAX_CHAIN_KEYS
    link.deliver("t", depth=MAX_DEPTH, chain=chain)
    await ticks()
    assert link.answer_to("t") == b""


async def test_a_body_that_is_too_large_is_not_decoded(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(max_payload_bytes=1000)
    await engine.subscribe([1], echo)
    link.sink.request(1, b"{" + bytes(1_000_000), "go")
    answer = link.answer_to("go")
    assert isinstance(answer, PayloadTooLargeError)
    assert not answer.maybe_executed
    assert engine.counters.garbage == 1


async def test_a_refused_notify_is_counted_and_logged_without_its_content(
    engine: Engine, link: FakeLink, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    link.deliver("Save", b"secret", shard=2, oneway=True, headers={"a": "secret"})
    link.deliver("Save", b"secret", oneway=True, headers={"a": "secret\n"})
    link.deliver("Save" * 1000, b"secret", oneway=True)
    assert link.replies == []
    assert (engine.counters.refused.total(), engine.counters.notify_failures) == (3, 3)
    assert "a notify failed (shard 2, type 'Save'): NotOwnerError: the receiver does not own shard 2" in caplog.text
    assert "secret" not in caplog.text
    assert max(map(len, caplog.messages)) < 1000
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


# Garbage.

GARBAGE = {
    "empty": b"",
    "text": b"hello",
    "zeros": bytes(100),
    "half json": b'{"shard":1,"ty',
    "json list": b"[1,2,3]",
    "json number": b" 5",
    "json of other types": b'{"shard":"one","type":5,"data":{}}',
    "invalid base64": b'{"shard":1,"type":"t","data":"%%%"}',
    "huge number": b'{"shard":1' + b"0" * 5000 + b',"type":"t","data":""}',
    "huge exponent": b'{"shard":1e999,"type":"t","data":""}',
    "lone surrogate": b'{"shard":1,"type":"\\ud800","data":""}',
    "invalid utf-8": b'{"shard":1,"type":"\xff\xfe","data":""}',
    "deep json": b'{"shard":' + DEEP,
    "deep msgpack": b"\x91" * 100_000,
    "msgpack map": b"\x81\xa1a\x01",
    "huge msgpack length": b"\xdd\xff\xff\xff\xff",
    "half msgpack": MSGPACK.encode(MSGPACK.new_request(1, "t", b"data"))[:-3],
    "byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_is_counted_and_answered_and_the_next_message_is_read(
    engine: Engine, link: FakeLink, listener: Listener, body: bytes
) -> None:
    link.sink.request(1, body, "go")
    link.sink.request(1, body, None)
    answer = link.answer_to("go")
    assert isinstance(answer, InvalidEnvelopeError)
    assert not answer.maybe_executed
    assert engine.counters.garbage + engine.counters.refused.total() >= 2
    link.deliver("next", b"data")
    await ticks()
    assert link.answer_to("next") == b"data"


class GoLink(FakeLink):
    """Takes the address in the message, as NATS does for Go clients, which have no other."""

    def reply_address(self, to: object, reply_to: str) -> object:
        return to or reply_to or None


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"headers": {str(number): "" for number in range(65)}}, InvalidEnvelopeError),
        ({"data": bytes(100_000)}, PayloadTooLargeError),
        ({"ttl_ms": "soon"}, InvalidEnvelopeError),
    ],
    ids=["headers", "size", "type"],
)
async def test_a_message_that_cannot_be_read_is_refused_to_the_address_in_it(
    open_engine: OpenEngine,
    fields: dict[str, Any],
    error: type[ClstrError],  # Any: a frame's
) -> None:
    link = GoLink()
    engine = await open_engine(link, max_payload_bytes=1000)
    await engine.subscribe([1], echo)
    frame = JSON.new_request(**{"shard": 1, "type": "t", "data": b"", "reply_to": "inbox", **fields})
    link.sink.request(1, JSON.encode(frame), None)
    answer = link.answer_to("inbox")
    assert isinstance(answer, error)
    assert not answer.maybe_executed
    link.sink.request(1, JSON.encode(frame), "native")
    assert isinstance(link.answer_to("native"), error)
    assert engine.counters.refused.total() == 2


async def test_a_notify_that_cannot_be_read_is_not_answered(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(link)
    await engine.subscribe([1], echo)
    headers = {str(number): "" for number in range(65)}
    link.sink.request(1, JSON.encode(JSON.new_request(1, "t", b"", headers=headers, oneway=True)), "native")
    assert link.replies == []
    assert (engine.counters.refused.total(), engine.counters.notify_failures, engine.counters.garbage) == (1, 1, 1)


async def test_what_is_not_even_bytes_costs_one_message(
    engine: Engine, link: FakeLink, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    for body in (None, 5, "text"):
        link.sink.request(1, body, "go")  # type: ignore[arg-type]  # a link with a defect
    assert engine.counters.garbage == 3
    link.deliver("next", b"data")
    await ticks()
    assert link.answer_to("next") == b"data"
    assert link.answer_to("go") is None


@pytest.mark.parametrize("body", [None, 5, "text"])
async def test_a_reply_that_is_not_even_bytes_is_an_invalid_reply(
    engine: Engine, link: FakeLink, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    link.sink.answer(link.sent[0].token, body)
    with pytest.raises(InvalidReplyError) as caught:
        await request
    assert caught.value.maybe_executed
    assert engine.counters.garbage == 1
    assert "could not be read" in caplog.text


async def test_a_link_that_fails_to_choose_an_address_costs_one_message(open_engine: OpenEngine) -> None:
    class Broken(FakeLink):
        def reply_address(self, to: object, reply_to: str) -> object:
            raise ValueError("not an address")

    link = Broken()
    engine = await open_engine(link)
    link.deliver("t")
    assert engine.counters.garbage == 1


async def test_answers_that_reached_nobody_are_counted_as_dropped(engine: Engine, link: FakeLink) -> None:
    link.sink.dropped(2)
    link.sink.dropped(0)
    assert engine.counters.dropped_replies == 2


async def test_what_the_link_calls_garbage_is_counted(engine: Engine, link: FakeLink) -> None:
    link.sink.garbage("no such frame")
    assert engine.counters.garbage == 1


# What arrives at the address of a reply.

FOREIGN = {
    "empty": b"",
    "text": b"hello",
    "half json": b'{"data":"',
    "half msgpack": MSGPACK.encode(MSGPACK.new_reply(b"data"))[:-1],
    "deep": b"{" + DEEP,
    "invalid utf-8": b'{"err":"\xff"}',
    "json list": b"[]",
    "a stream's acknowledgement": b'{"stream":"AUDIT","seq":1}',
    "a stream's refusal": b'{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}',
    "a stranger's service": b'{"data":"eA==","status":"ok"}',
    "other types": b'{"err":5}',
    "facts of other types": b'{"v":1,"err":"e","code":"overloaded","details":{"limit":[1]}}',
    "our fields without the mark": b'{"err":"e","code":"overloaded"}',
    "a mark without our fields": b'{"v":1,"status":"ok"}',
    "another version": b'{"v":2,"data":"eA=="}',
    "msgpack without the mark": msgspec.msgpack.encode([b"data", "", "", {}, None]),
    "msgpack of another version": msgspec.msgpack.encode([2, b"data", "", "", {}, None]),
    "msgpack that goes on": msgspec.msgpack.encode([1, b"data", "", "", {}, None, "more"]),
    "msgpack map": msgspec.msgpack.encode({"v": 1, "data": b"data"}),
}


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("body", FOREIGN.values(), ids=FOREIGN.keys())
async def test_what_is_no_reply_does_not_end_a_request(
    open_engine: OpenEngine, link: FakeLink, codec: Codec, body: bytes
) -> None:
    engine = await open_engine(codec=codec.name)
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    link.sink.answer(link.sent[0].token, body)
    await ticks()
    assert not request.done()
    assert (engine.counters.foreign_replies, engine.counters.garbage) == (1, 0)
    link.sink.answer(link.sent[0].token, codec.encode(codec.new_reply(b"reply")))
    assert await request == b"reply"


@pytest.mark.parametrize("body", FOREIGN.values(), ids=FOREIGN.keys())
async def test_what_is_no_reply_does_not_accept_a_notify(engine: Engine, link: FakeLink, body: bytes) -> None:
    notify = asyncio.ensure_future(engine.notify(message()))
    await ticks()
    link.sink.answer(link.sent[0].token, body)
    await ticks()
    assert not notify.done()
    link.sink.refused(link.sent[0].token, NoShardSubscriberError(1))
    with pytest.raises(NoShardSubscriberError):
        await notify


GO_REPLIES = {
    "empty": b"{}",
    "data": b'{"data":"eA=="}',
    "no data": b'{"data":null}',
    "white space": b'{ "data": "eA==" }',
}


@pytest.mark.parametrize("body", GO_REPLIES.values(), ids=GO_REPLIES.keys())
async def test_a_go_node_s_reply_needs_no_mark(open_engine: OpenEngine, link: FakeLink, body: bytes) -> None:
    engine = await open_engine(codec="json")
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    link.sink.answer(link.sent[0].token, body)
    assert await request in (b"", b"x")
    assert engine.counters.foreign_replies == 0


async def test_a_go_node_cannot_answer_a_msgpack_request(engine: Engine, link: FakeLink) -> None:
    """So an empty JSON object is no reply to one: where there is no Go, nothing is ambiguous."""
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    for body in GO_REPLIES.values():
        link.sink.answer(link.sent[0].token, body)
    await ticks()
    assert not request.done()
    link.sink.answer(link.sent[0].token, JSON.encode(JSON.new_reply(b"reply")))
    assert await request == b"reply"


async def test_the_timeout_says_what_answered_instead(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    request = asyncio.ensure_future(engine.request(message(), timeout=2))
    await ticks()
    link.sink.answer(link.sent[0].token, b'{"password":"secret"}')
    with pytest.raises(RequestTimeoutError, match="within 2 s: something that is no clstr node answered") as caught:
        await request
    assert "secret" not in str(caught.value)
    assert "no clstr node" in caught.value.reason
    assert caught.value.maybe_executed


async def test_the_link_may_know_what_answered(link: FakeLink, open_engine: OpenEngine, clock: VirtualLoop) -> None:
    class Knowing(FakeLink):
        def describe_foreign(self, body: Buffer) -> str:
            return "the town crier" if body == b"oyez" else ""

    link = Knowing()
    engine = await open_engine(link)
    request = asyncio.ensure_future(engine.request(message(), timeout=2))
    await ticks()
    link.sink.answer(link.sent[0].token, b"oyez")
    with pytest.raises(RequestTimeoutError, match="within 2 s: the town crier"):
        await request


async def test_a_link_that_fails_to_describe_a_foreign_answer_costs_nothing(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeLink):
        def describe_foreign(self, body: Buffer) -> str:
            raise ValueError("odd")

    link = Broken()
    engine = await open_engine(link)
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    link.sink.answer(link.sent[0].token, b"odd")
    link.answer(link.sent[0], b"reply")
    assert await request == b"reply"
    assert "failed to describe" in caplog.text


async def test_a_storm_of_foreign_answers_is_one_line_in_ten_seconds(
    engine: Engine, link: FakeLink, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    request = asyncio.ensure_future(engine.request(message(), timeout=60))
    await ticks()
    for _ in range(2):
        for _ in range(100):
            link.sink.answer(link.sent[0].token, b'{"password":"secret"}')
        await asyncio.sleep(10)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2
    assert "for shard 1 was no reply: something that is no clstr node" in lines[1]
    assert lines[1].endswith("(99 more since the last such line)")
    assert "secret" not in "".join(lines)
    link.answer(link.sent[0])
    await request


@pytest.mark.parametrize(
    "fields",
    [
        b'"code":"expired","err":"e","details":{"ttl":1' + b"0" * 400 + b"}",
        b'"code":"overloaded","err":"e","details":{"bound":1' + b"0" * 400 + b"}",
        b'"code":"expired","err":"e","details":{"ttl":1e999}',
        b'"code":"no such code","err":"e","details":{"shard":true}',
        b'"code":"not_owner","err":"","executed":true',
        b'"code":"handler_error"',
        b'"err":"plain text"',
        b'"err":"e","code":"\\u0000"',
    ],
    ids=lambda fields: f"{fields[:45].decode()}, {len(fields)} bytes",
)
async def test_any_readable_error_reply_is_an_error_of_ours(engine: Engine, link: FakeLink, fields: bytes) -> None:
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    link.sink.answer(link.sent[0].token, b'{"v":1,' + fields + b"}")
    await ticks()
    assert request.done() == (b"e999" not in fields)  # which is no number, so no reply
    with pytest.raises(ClstrError) as caught:
        await request
    assert caught.value.maybe_executed


async def test_a_go_peers_text_is_a_handler_error(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(codec="json")
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    link.sink.answer(link.sent[0].token, b'{"err":"division by zero"}')
    with pytest.raises(HandlerError, match="division by zero"):
        await request


async def test_an_answer_to_an_unknown_token_is_late_and_not_read(engine: Engine, link: FakeLink) -> None:
    link.sink.answer(5, b"hello")
    assert (engine.counters.late_replies, engine.counters.garbage) == (1, 0)
    link.sink.accepted(5)
    link.sink.refused(5, NotOwnerError(1))
    link.sink.lost("nobody")
    assert engine.counters.late_replies == 3


async def test_an_answer_from_a_peer_that_was_not_asked_is_garbage(engine: Engine, link: FakeLink) -> None:
    link.route = "a"
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    body = encode_answer(b"reply")
    link.sink.answer(link.sent[0].token, encode_answer(b"forged"), "b")
    assert engine.counters.garbage == 1
    link.sink.answer(link.sent[0].token, body, "a")
    assert await request == b"reply"


async def test_a_route_may_become_known_after_sending(engine: Engine, link: FakeLink) -> None:
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    link.sink.routed(link.sent[0].token, "a")
    link.sink.routed(5, "nowhere")
    link.sink.lost("b")
    await ticks()
    assert not request.done()
    link.sink.lost("a")
    with pytest.raises(ConnectionLostError):
        await request


async def test_a_reply_that_is_too_large_is_not_decoded(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(max_payload_bytes=1000)
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    link.sink.answer(link.sent[0].token, b"{" + bytes(1_000_000))
    with pytest.raises(PayloadTooLargeError) as caught:
        await request
    assert caught.value.maybe_executed
    assert engine.counters.garbage == 1


@pytest.mark.parametrize("executed", [True, False])
async def test_an_outcome_that_the_link_knows_is_believed(engine: Engine, link: FakeLink, executed: bool) -> None:
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    error = TransportUnavailableError("the broker said so", maybe_executed=executed)
    link.sink.failed(link.sent[0].token, error)
    with pytest.raises(TransportUnavailableError) as caught:
        await request
    assert caught.value is error
    assert caught.value.maybe_executed == executed


# Anything.


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[tuple[VirtualLoop, Engine, FakeLink]]:
    """One engine for thousands of examples; it must survive them all."""
    loop = VirtualLoop()
    link = FakeLink()

    async def open_() -> Engine:
        engine = await Engine(link).open()
        await engine.subscribe([1], echo)
        return engine

    engine = loop.run_until_complete(open_())
    yield loop, engine, link
    loop.run_until_complete(engine.aclose())
    loop.close()


@given(st.binary() | st.binary().map(b"{".__add__) | st.binary().map(b"\x9b".__add__))
def test_no_bytes_stop_the_receiver(fuzzed: tuple[VirtualLoop, Engine, FakeLink], body: bytes) -> None:
    loop, engine, link = fuzzed
    before = engine.counters.garbage + engine.counters.refused.total()
    link.sink.request(1, body, "go")
    link.sink.answer(1, body)
    loop.run_until_complete(ticks())
    answers = [answer for to, answer in link.replies if to == "go"]
    assert len(answers) == 1
    assert isinstance(answers[0], bytes) or engine.counters.garbage + engine.counters.refused.total() > before
    link.replies.clear()
    link.deliver("next", b"data")
    loop.run_until_complete(ticks())
    assert link.replies == [("next", b"data")]
    link.replies.clear()


FRAME = MSGPACK.encode(MSGPACK.new_request(1, "t", b"data", "", {"a": "b"}, 5000, 1, 1, False, 1, ["k"]))
JSON_FRAME = JSON.encode(JSON.new_request(1, "t", b"data", "", {"a": "b"}, 5000, 1, 1, False, 1, ["k"]))


@given(st.sampled_from([FRAME, JSON_FRAME]), st.data())
def test_no_damaged_frame_stops_the_receiver(
    fuzzed: tuple[VirtualLoop, Engine, FakeLink], frame: bytes, data: st.DataObject
) -> None:
    body = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    loop, _, link = fuzzed
    link.sink.request(1, body, "go")
    loop.run_until_complete(ticks())
    assert len(link.replies) <= 1  # none if it has become a notify
    link.replies.clear()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
)
DETAILS = st.dictionaries(st.sampled_from(["shard", "ttl", "limit", "bound", "size"]), JSON_VALUES)
REPLY = st.fixed_dictionaries(
    {},
    optional={
        "data": JSON_VALUES,
        "err": st.text() | JSON_VALUES,
        "code": st.sampled_from(["overloaded", "expired", "handler_error", "not_owner", "too_large"]) | st.text(),
        "details": DETAILS | JSON_VALUES,
        "executed": st.none() | st.booleans() | JSON_VALUES,
    },
)


@given(REPLY)
def test_no_reply_frame_stops_the_receiver(
    fuzzed: tuple[VirtualLoop, Engine, FakeLink], reply: dict[str, object]
) -> None:
    loop, engine, link = fuzzed

    async def ask() -> bytes:
        request = asyncio.ensure_future(engine.request(message()))
        await ticks()
        link.sink.answer(link.sent.pop().token, json.dumps(reply).encode())
        return await request

    async def outcome_of_asking() -> object:
        try:
            return await ask()
        except ClstrError as error:
            return error

    outcome = loop.run_until_complete(outcome_of_asking())
    assert isinstance(outcome, bytes | ClstrError)


# Clusters.


async def test_a_request_of_another_cluster_is_refused_before_anything_else_of_it_counts(
    open_engine: OpenEngine, link: FakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await open_engine()
    engine.join_cluster("prod")
    await engine.subscribe([1], fail)
    for number, name in enumerate(["", "staging", "\x1b[2J", "x" * 10_000]):
        link.deliver("t", to=f"client {number}", cluster=name)
    answers = [str(link.answer_to(f"client {number}")) for number in range(4)]
    assert [answer.partition(",")[0] for answer in answers] == [
        "invalid envelope: cluster is not named",
        "invalid envelope: cluster is staging",
        "invalid envelope: cluster is malformed",
        "invalid envelope: cluster is malformed",
    ]
    assert engine.counters.foreign_requests == 4
    assert len(caplog.records) == 1  # of the first: ten seconds have to pass for another


async def fail(_: Envelope) -> bytes:
    raise AssertionError("it must not run")


async def test_a_name_is_on_the_wire_only_where_there_is_one(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(codec="json")
    with suppress(RequestTimeoutError):
        await engine.request(Envelope(shard=1, type="t"), timeout=0.01)
    assert b"cluster" not in JSON.encode(link.sent[0].frame)
    engine.join_cluster("prod")
    with suppress(RequestTimeoutError):
        await engine.request(Envelope(shard=1, type="t"), timeout=0.01)
    assert link.sent[1].frame.cluster == "prod"
