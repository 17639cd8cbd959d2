"""Requests and notifies on their way out (T8, T9, T11, T12, T13, T16)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from clstr._context import current
from clstr._limits import MAX_CHAIN_BYTES, MAX_CHAIN_KEYS, MAX_SECONDS, MAX_TTL_MS
from clstr._messages.call_chain import chain_name
from clstr._messages.envelope import Envelope
from clstr._messages.wire import CODECS, JSON, PROTOCOL_VERSION, Codec
from clstr.errors import (
    ClstrError,
    ConnectionLostError,
    DrainingError,
    EnvelopeExpiredError,
    InvalidEnvelopeError,
    NoShardSubscriberError,
    NotOwnerError,
    OverloadedError,
    PayloadTooLargeError,
    RequestTimeoutError,
    ReservedHeaderError,
    TransportClosedError,
    TransportUnavailableError,
)
from clstr.spi import Route
from clstr.spi._engine import Engine
from clstr.spi._sender import PAUSES
from spi.fakes import FakeLink, Hub, HubLink, OpenEngine, Sent, echo, leftovers, message, ticks
from spi.virtual_time import START, VirtualLoop


async def begin(engine: Engine, envelope: Envelope | None = None, timeout: float = 5.0) -> asyncio.Task[bytes]:
    """Begin a request and let it be sent."""
    task = asyncio.ensure_future(engine.request(envelope or message(), timeout=timeout))
    await ticks()
    return task


async def begin_notify(engine: Engine, envelope: Envelope | None = None, timeout: float = 5.0) -> asyncio.Task[None]:
    task = asyncio.ensure_future(engine.notify(envelope or message(), timeout=timeout))
    await ticks()
    return task


# What is on the wire.


async def test_a_request_carries_the_whole_envelope(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine, message(7, b"data", type="Get", headers={"a": "b"}, created_at_ms=123))
    (sent,) = link.sent
    assert (sent.shard, sent.oneway) == (7, False)
    frame = sent.frame
    assert (frame.shard, frame.type, frame.data, frame.headers) == (7, "Get", b"data", {"a": "b"})
    assert (frame.created_at_ms, frame.v, frame.oneway, frame.depth) == (123, PROTOCOL_VERSION, False, 0)
    link.answer(sent, b"reply")
    assert await request == b"reply"


async def test_what_is_not_stamped_is_stamped_at_sending(engine: Engine, link: FakeLink) -> None:
    before = time.time_ns() // 1_000_000
    request = await begin(engine)
    assert before <= link.sent[0].frame.created_at_ms <= time.time_ns() // 1_000_000
    link.answer(link.sent[0])
    await request


async def test_the_codec_is_the_engines(link: FakeLink) -> None:
    bodies = []
    link_send = link.send

    def send(shard: int, token: int, body: bytes, *, oneway: bool) -> object:
        bodies.append(body)
        link.sink.answer(token, JSON.encode(JSON.new_reply(b"reply")))
        return link_send(shard, token, body, oneway=oneway)

    link.send = send  # type: ignore[method-assign]  # the fake decodes what it is given
    engine = await Engine(link, codec="json").open()
    assert await engine.request(message()) == b"reply"
    assert bodies[0].startswith(b'{"shard":1')
    await engine.aclose()


async def test_the_link_may_print_a_reply_address_into_the_envelope(open_engine: OpenEngine) -> None:
    class Addressed(FakeLink):
        def reply_to(self, shard: int, token: int) -> str:
            return f"inbox.{token}"

    link = Addressed()
    engine = await open_engine(link)
    request = await begin(engine)
    (sent,) = link.sent
    assert sent.frame.reply_to == f"inbox.{sent.token}"
    link.answer(sent)
    await request


@pytest.mark.parametrize(
    ("ttl_ms", "timeout", "on_the_wire"),
    [
        (0, 5, 5000),
        (2000, 5, 2000),
        (9000, 5, 5000),
        (0, 0.0001, 1),
        (0, MAX_SECONDS, MAX_TTL_MS),
        (MAX_TTL_MS, MAX_SECONDS, MAX_TTL_MS),
    ],
)
async def test_a_request_carries_the_smaller_of_its_ttl_and_the_callers_patience(
    engine: Engine, link: FakeLink, clock: VirtualLoop, ttl_ms: int, timeout: float, on_the_wire: int
) -> None:
    request = await begin(engine, message(ttl_ms=ttl_ms), timeout)
    assert link.sent[0].frame.ttl_ms == pytest.approx(on_the_wire, abs=1)
    assert link.sent[0].frame.ttl_ms <= MAX_TTL_MS
    link.answer(link.sent[0])
    await request


@pytest.mark.parametrize(("ttl_ms", "on_the_wire"), [(0, 0), (9000, 9000)])
async def test_a_notify_carries_its_ttl_alone(
    engine: Engine, link: FakeLink, clock: VirtualLoop, ttl_ms: int, on_the_wire: int
) -> None:
    notify = await begin_notify(engine, message(ttl_ms=ttl_ms), timeout=5)
    (sent,) = link.sent
    assert (sent.frame.ttl_ms, sent.oneway, sent.frame.oneway) == (on_the_wire, True, True)
    link.sink.accepted(sent.token)
    await notify


async def test_the_ttl_on_the_wire_is_what_is_left_at_each_attempt(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    request = await begin(engine, message(ttl_ms=4000), timeout=60)
    await asyncio.sleep(1)
    link.answer(link.sent[0], NotOwnerError(1))
    await ticks()
    await asyncio.sleep(2)
    link.answer(link.sent[1], NotOwnerError(1))
    await asyncio.sleep(0.1)
    assert [sent.frame.ttl_ms for sent in link.sent] == [4000, 3000, 990]
    await asyncio.sleep(1.5)
    link.answer(link.sent[2], NotOwnerError(1))
    with pytest.raises(EnvelopeExpiredError) as caught:
        await request
    assert (caught.value.ttl, caught.value.maybe_executed) == (4.0, False)
    assert len(link.sent) == 3


async def test_a_notifys_ttl_is_counted_down_too(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    notify = await begin_notify(engine, message(ttl_ms=9000), timeout=5)
    await asyncio.sleep(1)
    link.sink.refused(link.sent[0].token, NotOwnerError(1))
    await ticks()
    assert [sent.frame.ttl_ms for sent in link.sent] == [9000, 8000]
    link.sink.accepted(link.sent[1].token)
    await notify


async def test_the_age_of_the_envelope_counts_by_its_senders_clock(engine: Engine, link: FakeLink) -> None:
    now_ms = time.time_ns() // 1_000_000
    request = await begin(engine, message(ttl_ms=60_000, created_at_ms=now_ms - 57_000))
    assert 0 < link.sent[0].frame.ttl_ms <= 3000
    link.answer(link.sent[0])
    await request


@pytest.mark.parametrize("send", [Engine.request, Engine.notify])
async def test_an_expired_envelope_is_not_sent(engine: Engine, link: FakeLink, send: Callable[..., object]) -> None:
    with pytest.raises(EnvelopeExpiredError) as caught:
        await send(engine, message(ttl_ms=10, created_at_ms=1))  # type: ignore[misc]  # both are coroutines
    assert (caught.value.shard, caught.value.ttl, caught.value.maybe_executed) == (1, 0.01, False)
    assert link.sent == []


async def test_a_request_of_a_handler_carries_its_depth_and_chain(engine: Engine, link: FakeLink) -> None:
    async def handler(_: Envelope) -> bytes:
        await asyncio.gather(
            engine.request(message(shard=2, headers={"x-clstr-key": "k3"})), engine.request(message(shard=3))
        )
        return b""

    await engine.subscribe([1], handler)
    link.deliver("t", depth=4, chain=["k1"], headers={"x-clstr-key": "k2"})
    link.deliver("t", depth=0)  # sent by shard: it has no key to add
    await ticks()
    assert [(sent.frame.depth, names(sent)) for sent in link.sent] == [(5, ["k1", "k2"])] * 2 + [(1, [])] * 2
    calls = [sent.frame.chain[-1] for sent in link.sent[:2]]
    assert calls[0] != calls[1]  # each request has its own id
    for sent in link.sent:
        link.answer(sent)
    await ticks()


async def test_a_handler_awaits_its_request_until_it_is_answered_or_given_up(engine: Engine, link: FakeLink) -> None:
    """That is what a message that comes back over a chain is held to."""
    seen: list[list[bool]] = []

    async def handler(_: Envelope) -> bytes:
        inside = current()
        assert inside is not None
        requests = [asyncio.ensure_future(engine.request(message(shard=shard), timeout=60)) for shard in (2, 3, 4)]
        await ticks()
        calls = [sent.frame.chain[-1] for sent in link.sent]
        seen.append([inside.awaits(call) for call in calls])
        link.answer(link.sent[0])
        requests[1].cancel()
        await asyncio.wait(requests[:2])
        seen.append([inside.awaits(call) for call in calls])
        link.sink.failed(link.sent[2].token, ConnectionLostError("gone"))
        await asyncio.wait(requests)
        assert isinstance(requests[2].exception(), ConnectionLostError)
        seen.append([inside.awaits(call) for call in calls])
        return b"done"

    await engine.subscribe([1], handler)
    link.deliver("t", headers={"x-clstr-key": "k"})
    await ticks(60)
    assert link.answer_to("t") == b"done"
    assert seen == [[True, True, True], [False, False, True], [False, False, False]]


async def test_a_long_chain_forgets_its_oldest_keys(engine: Engine, link: FakeLink) -> None:
    async def handler(envelope: Envelope) -> bytes:
        return await engine.request(message(shard=2))

    await engine.subscribe([1], handler)
    many = [f"k{index}#1" for index in range(MAX_CHAIN_KEYS)]
    long, long_key = "x" * (MAX_CHAIN_BYTES // 2), "ä" * 1000  # the first as another implementation may send it
    for key, chain in (("next", many), ("next", [long, long]), (long_key, ["k1#1"])):
        link.deliver("t", chain=chain, depth=1, headers={"x-clstr-key": key})
    await ticks()
    expected = [
        [*(f"k{index}" for index in range(1, MAX_CHAIN_KEYS)), "next"],
        [long, "next"],
        ["k1", chain_name(long_key)],
    ]
    assert [names(sent) for sent in link.sent] == expected
    for sent in link.sent:
        link.answer(sent)
    await ticks()


def names(sent: Sent) -> list[str]:
    """Return the chain of a message without the ids of its calls."""
    return [call.partition("#")[0] for call in sent.frame.chain]


# What is refused before anything is sent.


@pytest.mark.parametrize(
    ("envelope", "error"),
    [
        (message(-1), InvalidEnvelopeError),
        (message(type="a\nb"), InvalidEnvelopeError),
        (message(headers={"a": "b\n"}), InvalidEnvelopeError),
        (message(ttl_ms=MAX_TTL_MS + 1), InvalidEnvelopeError),
        (message(headers={"X-Clstr-Depth": "1"}), ReservedHeaderError),
        (message(data=bytes(65)), PayloadTooLargeError),
    ],
    ids=["shard", "type", "value", "ttl", "header", "size"],
)
async def test_an_invalid_envelope_is_not_sent(
    open_engine: OpenEngine, link: FakeLink, envelope: Envelope, error: type[ClstrError]
) -> None:
    engine = await open_engine(max_payload_bytes=64)
    for call in (engine.request, engine.notify):
        with pytest.raises(error) as caught:
            await call(envelope)
        assert not caught.value.maybe_executed
    assert link.sent == []


async def test_a_payload_of_the_very_limit_is_sent(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(max_payload_bytes=64)
    request = await begin(engine, message(data=bytes(64)))
    link.answer(link.sent[0])
    await request


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
async def test_what_the_broker_does_not_carry_is_not_sent(open_engine: OpenEngine, codec: Codec) -> None:
    """Headers count for the broker, though not for the limit; the error says what fits beside them, to the byte."""
    link = FakeLink(max_message_bytes=1000)
    engine = await open_engine(link, codec=codec.name)
    with pytest.raises(PayloadTooLargeError) as caught:
        await engine.request(message(data=bytes(500), headers={"h": "x" * 500}))
    assert not caught.value.maybe_executed
    assert (caught.value.size, link.sent) == (500, [])
    fits = caught.value.max_bytes
    assert 100 < fits < 500
    assert str(caught.value).endswith(f"the limit is {fits}: send less: the broker carries no more")
    fitting = await begin(engine, message(data=bytes(fits), headers={"h": "x" * 500}))
    with pytest.raises(PayloadTooLargeError):
        await engine.request(message(data=bytes(fits + 6), headers={"h": "x" * 500}))  # base64 has steps of 3 bytes
    link.answer(link.sent[0])
    await fitting


async def test_the_link_may_know_why_a_request_got_no_answer(open_engine: OpenEngine, clock: VirtualLoop) -> None:
    class Knowing(FakeLink):
        def why_unanswered(self, shard: int) -> str:
            return f"the road to {shard} is closed"

    engine = await open_engine(Knowing())
    with pytest.raises(RequestTimeoutError, match="within 2 s: the road to 1 is closed") as caught:
        await engine.request(message(), timeout=2)
    assert (caught.value.reason, caught.value.maybe_executed) == ("the road to 1 is closed", True)
    assert (caught.value.shard, caught.value.timeout) == (1, 2)


async def test_a_link_that_asks_is_told_which_shards_have_answered(open_engine: OpenEngine) -> None:
    link = FakeLink()
    link.answered_shards = set()
    engine = await open_engine(link)
    answers: list[tuple[int, bytes | ClstrError]] = [(1, b""), (2, DrainingError(2))]
    for shard, answer in answers:
        request = await begin(engine, message(shard=shard))
        link.answer(link.sent[-1], answer)
        await asyncio.wait([request])
    request = await begin(engine, message(shard=3))
    link.sink.refused(link.sent[-1].token, NoShardSubscriberError(3))  # by the broker: no node
    with pytest.raises(NoShardSubscriberError):
        await request
    assert link.answered_shards == {1, 2}


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), MAX_SECONDS + 1])
async def test_a_timeout_must_be_finite_and_positive(engine: Engine, timeout: float) -> None:
    for call in (engine.request, engine.notify):
        with pytest.raises(ValueError, match="timeout must be"):
            await call(message(), timeout=timeout)


async def test_a_timeout_must_be_a_number(engine: Engine) -> None:
    with pytest.raises(TypeError, match="timeout must be a number"):
        await engine.request(message(), timeout="5")  # type: ignore[arg-type]  # the mistake in question


async def test_unanswered_bytes_are_bounded_and_nothing_more_is_sent(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(max_inflight_bytes=100)
    request = await begin(engine, message(data=bytes(60)))
    for call in (engine.request, engine.notify):
        with pytest.raises(OverloadedError) as caught:
            await call(message(data=bytes(60)))
        assert (caught.value.limit, caught.value.maybe_executed) == ("max_inflight_bytes", False)
    assert len(link.sent) == 1
    link.answer(link.sent[0])
    await request
    request = await begin(engine, message(data=bytes(60)))
    link.answer(link.sent[1])
    await request


@pytest.mark.parametrize("error", [NoShardSubscriberError(1), TransportUnavailableError("down"), OSError("broken")])
async def test_what_the_link_raises_reaches_the_caller_and_nothing_is_kept(
    engine: Engine, link: FakeLink, error: Exception, clock: VirtualLoop
) -> None:
    link.send_error = error
    for call in (engine.request, engine.notify):
        with pytest.raises(type(error)) as caught:
            await call(message())
        assert caught.value is error
    assert leftovers(engine) == {}


# Answers, and their absence.


async def test_an_empty_reply_is_empty_bytes(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    link.answer(link.sent[0], b"")
    assert await request == b""


async def test_a_request_without_an_answer_times_out(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    with pytest.raises(RequestTimeoutError) as caught:
        await engine.request(message(), timeout=3)
    assert START + 3 <= clock.time() <= START + 3.01
    assert (caught.value.shard, caught.value.timeout, caught.value.maybe_executed) == (1, 3, True)
    link.answer(link.sent[0], b"late")
    assert engine.counters.late_replies == 1
    assert leftovers(engine) == {}


async def test_a_late_reply_never_reaches_another_request(engine: Engine, link: FakeLink) -> None:
    first = await begin(engine)
    first.cancel()
    await ticks()
    second = await begin(engine)
    link.answer(link.sent[0], b"first")
    await ticks()
    assert not second.done()
    link.answer(link.sent[1], b"second")
    assert await second == b"second"
    assert engine.counters.late_replies == 1


async def test_only_the_first_of_two_answers_counts(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    link.answer(link.sent[0], b"one")
    link.answer(link.sent[0], DrainingError(1))
    link.sink.refused(link.sent[0].token, NotOwnerError(1))
    assert await request == b"one"
    assert engine.counters.late_replies == 2
    assert len(link.sent) == 1


async def test_an_answer_from_within_send_counts(open_engine: OpenEngine) -> None:
    class Instant(FakeLink):
        def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> object:
            super().send(shard, token, body, oneway=oneway)
            if oneway:
                self.sink.accepted(token)
            else:
                self.answer(self.sent[-1], b"at once")
            return None

    engine = await open_engine(Instant())
    assert await engine.request(message()) == b"at once"
    await engine.notify(message())
    assert leftovers(engine) == {}


async def test_a_notify_returns_when_it_is_on_its_way(engine: Engine, link: FakeLink) -> None:
    notify = await begin_notify(engine)
    assert not notify.done()
    link.sink.accepted(link.sent[0].token)
    await notify


async def test_a_notify_that_is_refused_fails(engine: Engine, link: FakeLink) -> None:
    notify = await begin_notify(engine)
    error = ConnectionLostError("a proof that nobody had it")
    link.sink.refused(link.sent[0].token, error)
    with pytest.raises(ConnectionLostError) as caught:
        await notify
    assert not caught.value.maybe_executed


async def test_a_notify_that_is_never_accepted_times_out(engine: Engine, clock: VirtualLoop) -> None:
    with pytest.raises(RequestTimeoutError):
        await engine.notify(message(), timeout=3)
    assert leftovers(engine) == {}


async def test_an_error_that_was_raised_keeps_nothing_alive_in_a_cycle(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    """A traceback and its frame, and with them the payload, would wait for the garbage collector."""

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(RequestTimeoutError):
            await engine.request(message(data=bytes(1000)), timeout=1.25)
        await ticks()  # the callback that woke us has gone, too
        kept = [each for each in gc.get_objects() if isinstance(each, RequestTimeoutError)]
        assert not [error for error in kept if getattr(error, "timeout", 0) == 1.25]
    finally:
        gc.enable()


# One outcome, whatever comes together.


def reply(engine: Engine, sent: Sent, task: asyncio.Task[bytes]) -> None:
    assert isinstance(engine.link, FakeLink)
    engine.link.answer(sent, b"reply")


def expire(engine: Engine, sent: Sent, task: asyncio.Task[bytes]) -> None:
    engine.pending._by_token[sent.token].expire()


def cancel(engine: Engine, sent: Sent, task: asyncio.Task[bytes]) -> None:
    task.cancel()


def lose(engine: Engine, sent: Sent, task: asyncio.Task[bytes]) -> None:
    assert isinstance(engine.link, FakeLink)
    engine.link.sink.down(OSError("reset"))


def close(engine: Engine, sent: Sent, task: asyncio.Task[bytes]) -> None:
    engine.pending.fail_sent(TransportClosedError, "closed")


EVENTS = {
    reply: b"reply",
    expire: RequestTimeoutError,
    lose: ConnectionLostError,
    close: TransportClosedError,
    cancel: None,
}


@pytest.mark.parametrize(
    "order",
    [order for count in (2, 3, 5) for order in itertools.permutations(EVENTS, count)],
    ids=lambda order: "-".join(event.__name__ for event in order),
)
async def test_events_of_one_tick_give_one_outcome(
    engine: Engine, link: FakeLink, order: tuple[Callable[..., None], ...]
) -> None:
    task = await begin(engine)
    for event in order:
        event(engine, link.sent[0], task)
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if cancel in order:
        assert isinstance(outcome, asyncio.CancelledError)
    elif order[0] is reply:
        assert outcome == b"reply"
    else:
        expected = EVENTS[order[0]]
        assert isinstance(expected, type)
        assert isinstance(outcome, expected)
    assert engine.counters.late_replies == (reply in order and order[0] is not reply)
    assert len(link.sent) == 1
    assert leftovers(engine) == {}


async def test_closing_in_the_tick_of_a_refusal_does_not_send_again(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    await engine.aclose()
    with pytest.raises(TransportClosedError):
        await request
    link.sent.clear()


@pytest.mark.parametrize("seed", range(3))
async def test_after_thousands_of_requests_with_any_end_nothing_is_left(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop, seed: int
) -> None:
    chance = random.Random(seed)
    engine = await open_engine(max_inflight_bytes=10_000)
    tasks: list[asyncio.Task[bytes]] = []
    answered = 0

    def lose_a_peer() -> None:
        link.sink.lost(link.route)
        link.route = object()

    def lose_the_link() -> None:
        link.sink.down(OSError("reset"))
        clock.call_later(chance.random(), link.sink.up)

    def answer() -> None:
        nonlocal answered
        link.answer(chance.choice(link.sent), NotOwnerError(1) if chance.random() < 0.3 else b"reply")
        answered += 1

    events = [answer] * 60 + [lambda: chance.choice(tasks[-50:]).cancel()] * 30 + [lose_a_peer] * 2 + [lose_the_link]
    for _ in range(2000):
        data = bytes(chance.randrange(100))
        tasks.append(asyncio.ensure_future(engine.request(message(data=data), timeout=chance.random() + 0.001)))
        await ticks(chance.choice([0, 0, 1, 2, 3]))
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() / 10)
        if link.sent:
            chance.choice(events)()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = {type(outcome) for outcome in outcomes}
    assert kinds >= {bytes, asyncio.CancelledError, RequestTimeoutError, ConnectionLostError}
    assert kinds <= {bytes, asyncio.CancelledError, *ClstrError.__subclasses__()}
    received = sum(isinstance(outcome, bytes) for outcome in outcomes)
    assert received + engine.counters.rerouted + engine.counters.late_replies <= answered
    assert leftovers(engine) == {}
    await asyncio.sleep(5)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelled_requests_over_real_handlers_leave_nothing_on_either_side(
    open_engine: OpenEngine, clock: VirtualLoop
) -> None:
    chance = random.Random(1)
    hub = Hub()
    server = await open_engine(HubLink(hub), max_concurrent=5)
    client = await open_engine(HubLink(hub))

    async def handler(envelope: Envelope) -> bytes:
        await asyncio.sleep(chance.random())
        return envelope.data

    await server.subscribe([1], handler)
    tasks = []
    for index in range(3000):
        data = str(index).encode()
        tasks.append(asyncio.ensure_future(client.request(message(data=data), timeout=1 + chance.random())))
        if index % 5 == 0:
            await asyncio.sleep(0.1)
            chance.choice(tasks).cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    replies = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, bytes)}
    assert len(replies) > 100
    assert all(reply == str(index).encode() for index, reply in replies.items())
    await asyncio.sleep(40)
    assert leftovers(server) == {}
    assert leftovers(client) == {}


# Not owner.


async def test_not_owner_asks_for_another_route_with_a_fresh_token(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine, message(data=b"data"))
    link.answer(link.sent[0], NotOwnerError(1))
    await ticks()
    assert len(link.sent) == 2
    assert link.sent[1].token != link.sent[0].token
    assert link.sent[1].frame.data == b"data"
    link.answer(link.sent[1], b"reply")
    assert await request == b"reply"
    assert engine.counters.rerouted == 1
    assert leftovers(engine) == {}


async def test_not_owner_is_believed_after_three_more_attempts(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    for attempt in range(1 + len(PAUSES)):
        link.answer(link.sent[attempt], NotOwnerError(1))
        await asyncio.sleep(0.1)
    with pytest.raises(NotOwnerError) as caught:
        await request
    assert not caught.value.maybe_executed
    assert len({sent.token for sent in link.sent}) == len(link.sent) == 4
    assert engine.counters.rerouted == 3


async def test_not_owner_of_a_message_that_may_have_run_is_not_rerouted(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    error = NotOwnerError(1)
    error.maybe_executed = True
    link.answer(link.sent[0], error)
    with pytest.raises(NotOwnerError) as caught:
        await request
    assert caught.value.maybe_executed
    assert len(link.sent) == 1
    assert engine.counters.rerouted == 0


@pytest.mark.parametrize("refusal", [DrainingError(1), OverloadedError("max_queue", 1), NoShardSubscriberError(1)])
async def test_no_other_refusal_is_rerouted(engine: Engine, link: FakeLink, refusal: ClstrError) -> None:
    request = await begin(engine)
    link.answer(link.sent[0], refusal)
    with pytest.raises(type(refusal)) as caught:
        await request
    assert not caught.value.maybe_executed
    assert len(link.sent) == 1


@pytest.mark.parametrize("refusal", [NotOwnerError(1), DrainingError(1)])
async def test_the_link_learns_who_does_not_take_messages_for_a_shard_before_it_is_asked_again(
    engine: Engine, link: FakeLink, refusal: ClstrError
) -> None:
    link.route = "first"
    request = await begin(engine)
    assert link.misroutes == []
    link.route = "second"
    link.answer(link.sent[0], refusal)
    await ticks()
    assert link.misroutes == [(1, "first", 1)]
    request.cancel()


async def test_a_route_that_is_known_after_sending_is_the_one_that_was_wrong(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    link.sink.routed(link.sent[0].token, "late")
    link.answer(link.sent[0], NotOwnerError(1))
    await ticks()
    assert link.misroutes == [(1, "late", 1)]
    request.cancel()


@pytest.mark.parametrize("refusal", [OverloadedError("max_queue", 1), NoShardSubscriberError(1)])
async def test_other_refusals_say_nothing_of_who_owns_a_shard(
    engine: Engine, link: FakeLink, refusal: ClstrError
) -> None:
    request = await begin(engine)
    link.answer(link.sent[0], refusal)
    with pytest.raises(type(refusal)):
        await request
    assert link.misroutes == []


async def test_rerouting_stays_inside_the_deadline(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    request = await begin(engine, timeout=3)
    await asyncio.sleep(2.5)
    link.answer(link.sent[0], NotOwnerError(1))
    with pytest.raises(RequestTimeoutError) as caught:
        await request
    assert clock.time() == pytest.approx(START + 3, abs=0.011)
    assert caught.value.maybe_executed  # it was sent again
    assert len(link.sent) == 2


async def test_a_refusal_at_the_deadline_is_not_sent_again(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    request = await begin(engine, timeout=3.004)
    clock.jump(3.006)  # the wheel has not turned
    link.answer(link.sent[0], NotOwnerError(1))
    with pytest.raises(NotOwnerError) as caught:
        await request
    assert not caught.value.maybe_executed
    assert len(link.sent) == 1


async def test_it_is_not_sent_again_if_the_pause_would_exceed_the_deadline(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    request = await begin(engine, timeout=0.015)
    link.answer(link.sent[0], NotOwnerError(1))
    await asyncio.sleep(0.006)
    link.answer(link.sent[1], NotOwnerError(1))
    with pytest.raises(NotOwnerError):
        await request
    assert clock.time() == START + 0.006
    assert len(link.sent) == 2


async def test_a_shard_without_owner_at_the_second_attempt_says_so(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    link.send_error = NoShardSubscriberError(1)
    link.answer(link.sent[0], NotOwnerError(1))
    with pytest.raises(NoShardSubscriberError):
        await request
    assert leftovers(engine) == {}


async def test_a_stale_route_leads_to_the_new_owner(open_engine: OpenEngine) -> None:
    """The link still sends to a peer that has let go; the engine there refuses, and here it asks for a route again."""
    hub = Hub()
    old, new, client = [await open_engine(HubLink(hub)) for _ in range(3)]
    subscription = await old.subscribe([1], echo)
    await subscription.aclose()
    await new.subscribe([1], echo)
    stale = old.link
    assert isinstance(stale, HubLink)
    hub.holders[1].insert(0, stale)
    assert await client.request(message(data=b"data")) == b"data"
    assert client.counters.rerouted == 1
    assert old.counters.refused.total() == 1
    hub.holders[1].remove(stale)


# The link asks for another attempt.


@pytest.mark.parametrize("oneway", [False, True])
async def test_the_link_may_ask_for_one_more_attempt(
    engine: Engine, link: FakeLink, clock: VirtualLoop, oneway: bool
) -> None:
    """A 503 on a clustered NATS server is believed after asking once more (T4)."""
    call: asyncio.Future[object] = asyncio.ensure_future((engine.notify if oneway else engine.request)(message()))
    await ticks()
    link.sink.refused(link.sent[0].token, NoShardSubscriberError(1), again_after=0.05)
    await asyncio.sleep(0.04)
    assert len(link.sent) == 1
    await asyncio.sleep(0.02)
    assert len(link.sent) == 2
    link.sink.refused(link.sent[1].token, NoShardSubscriberError(1), again_after=0.05)
    with pytest.raises(NoShardSubscriberError) as caught:
        await call
    assert not caught.value.maybe_executed
    assert len(link.sent) == 2
    assert clock.time() == pytest.approx(START + 0.06)


async def test_a_loop_that_sleeps_past_the_deadline_does_not_send_again(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    request = await begin(engine, timeout=1)
    link.sink.refused(link.sent[0].token, NoShardSubscriberError(1), again_after=0.05)
    await ticks()
    clock.jump(2)
    with pytest.raises(RequestTimeoutError) as caught:
        await request
    assert not caught.value.maybe_executed
    assert len(link.sent) == 1


async def test_the_route_that_the_link_told_first_counts(open_engine: OpenEngine) -> None:
    class Routing(FakeLink):
        def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> object:
            self.sink.routed(token, "a")
            return super().send(shard, token, body, oneway=oneway)

    link = Routing()
    request = await begin(await open_engine(link))
    link.sink.lost("a")
    with pytest.raises(ConnectionLostError):
        await request


async def test_what_the_second_attempt_finds_is_the_outcome(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    link.sink.refused(link.sent[0].token, NoShardSubscriberError(1), again_after=0)
    await ticks()
    link.answer(link.sent[1], b"reply")
    assert await request == b"reply"


# The link is down.


async def test_in_flight_when_the_link_goes_down_is_lost(engine: Engine, link: FakeLink) -> None:
    request, notify = await begin(engine), await begin_notify(engine)
    link.sink.down(OSError("reset"))
    for task in (request, notify):
        with pytest.raises(ConnectionLostError, match="reset") as caught:
            await task
        assert caught.value.maybe_executed


async def test_in_flight_to_a_lost_peer_is_lost_alone(engine: Engine, link: FakeLink) -> None:
    link.route = "a"
    to_a = await begin(engine)
    link.route = "b"
    to_b = await begin(engine)
    link.sink.lost("a")
    with pytest.raises(ConnectionLostError):
        await to_a
    assert not to_b.done()
    link.answer(link.sent[1], b"reply")
    assert await to_b == b"reply"


async def test_a_new_request_waits_for_the_link(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    link.sink.down(OSError("reset"))
    request = await begin(engine)
    notify = await begin_notify(engine)
    await asyncio.sleep(1)
    assert link.sent == []
    link.sink.up()
    await ticks()
    assert [sent.frame.ttl_ms for sent in link.sent] == [pytest.approx(4000, abs=1), 0]
    link.answer(link.sent[0], b"reply")
    link.sink.accepted(link.sent[1].token)
    assert await request == b"reply"
    await notify


async def test_a_link_that_knows_it_is_down_before_it_says_so_is_tried_again(engine: Engine, link: FakeLink) -> None:
    link.send_error = TransportUnavailableError("half closed")
    request = asyncio.ensure_future(engine.request(message()))
    while not link.sent:  # noqa: ASYNC110 -- this very tick matters
        await asyncio.sleep(0)
    link.sink.down(OSError("reset"))
    await ticks()
    link.send_error = None
    link.sink.up()
    await ticks()
    link.answer(link.sent[1], b"reply")
    assert await request == b"reply"
    assert len(link.sent) == 2


async def test_what_the_link_has_no_way_for_is_sent_when_it_reaches_more(engine: Engine, link: FakeLink) -> None:
    """The link is up all the time: it cannot reach those that may own this shard."""
    link.send_error = TransportUnavailableError("still connecting")
    request = await begin(engine)
    link.sink.up()
    await ticks()
    assert not request.done()
    link.send_error = None
    link.sink.up()
    await ticks()
    link.answer(link.sent[-1], b"reply")
    assert await request == b"reply"
    assert len(link.sent) == 3
    assert leftovers(engine) == {}


async def test_a_link_that_goes_down_inside_of_send_has_not_sent(engine: Engine, link: FakeLink) -> None:
    """What is in flight is lost with it; the message that it was given is not."""
    other = await begin(engine)
    send = link.send

    def go_down(*arguments: Any, **options: Any) -> Route:  # Any: as they come
        link.sink.down(OSError("reset"))
        raise TransportUnavailableError("reset")

    link.send = go_down  # type: ignore[method-assign]  # for one call
    request = await begin(engine)
    with pytest.raises(ConnectionLostError):
        await other
    assert not request.done()
    link.send = send  # type: ignore[method-assign]  # as it was
    link.sink.up()
    await ticks()
    link.answer(link.sent[-1], b"reply")
    assert await request == b"reply"
    assert leftovers(engine) == {}


async def test_what_the_link_has_no_way_for_waits_reconnect_wait_at_most(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    link.send_error = TransportUnavailableError("still connecting")
    for call in (engine.request, engine.notify):
        start = clock.time()
        with pytest.raises(TransportUnavailableError, match="still connecting"):
            await call(message(), timeout=60)
        assert clock.time() == start + 2


async def test_a_way_that_is_lost_while_it_is_waited_for_does_not_prolong_the_wait(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    link.send_error = TransportUnavailableError("still connecting")
    clock.call_later(1, link.sink.down, OSError("reset"))
    with pytest.raises(TransportUnavailableError, match="reset"):
        await engine.request(message(), timeout=60)
    assert clock.time() == START + 2


async def test_what_the_link_has_no_way_for_waits_inside_its_deadline(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    """The second time the link itself is down when the deadline comes."""
    link.send_error = TransportUnavailableError("still connecting")
    for goes_down in (False, True):
        start = clock.time()
        if goes_down:
            clock.call_later(0.5, link.sink.down, OSError("reset"))
        with pytest.raises(RequestTimeoutError) as caught:
            await engine.request(message(), timeout=1)
        assert clock.time() == start + 1
        assert not caught.value.maybe_executed


async def test_closing_ends_the_wait_for_a_way(engine: Engine, link: FakeLink) -> None:
    link.send_error = TransportUnavailableError("still connecting")
    request = await begin(engine)
    await engine.aclose()
    with pytest.raises(TransportClosedError):
        await request


async def test_what_waits_for_the_link_counts_for_the_bounds_and_is_not_lost_again(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop
) -> None:
    engine = await open_engine(max_inflight_requests=1)
    link.sink.down(OSError("reset"))
    request = await begin(engine)
    with pytest.raises(OverloadedError):
        await engine.request(message())
    link.sink.down(OSError("reset again"))
    link.sink.lost(None)
    await ticks()
    assert not request.done()
    link.sink.up()
    await ticks()
    link.answer(link.sent[0], b"reply")
    assert await request == b"reply"


async def test_it_waits_reconnect_wait_at_most(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    link.sink.down(OSError("reset"))
    with pytest.raises(TransportUnavailableError, match="reset") as caught:
        await engine.request(message(), timeout=60)
    assert clock.time() == START + 2
    assert not caught.value.maybe_executed


async def test_it_waits_inside_its_deadline(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    link.sink.down(OSError("reset"))
    with pytest.raises(RequestTimeoutError) as caught:
        await engine.request(message(), timeout=1)
    assert clock.time() == START + 1
    assert not caught.value.maybe_executed


async def test_without_reconnect_wait_it_fails_at_once(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop
) -> None:
    engine = await open_engine(reconnect_wait=0)
    link.sink.down(OSError("reset"))
    with pytest.raises(TransportUnavailableError):
        await engine.request(message())
    assert clock.time() == START


async def test_a_link_that_is_lost_for_good_fails_at_once(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    request = await begin(engine)
    link.sink.down(OSError("revoked"), fatal=True)
    with pytest.raises(ConnectionLostError):
        await request
    link.sink.up()
    with pytest.raises(TransportUnavailableError, match="lost for good"):
        await engine.request(message())
    assert clock.time() == START


async def test_a_rerouted_request_waits_for_the_link_too(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    request = await begin(engine)
    link.answer(link.sent[0], NotOwnerError(1))
    link.sink.down(OSError("reset"))
    await asyncio.sleep(1)
    link.sink.up()
    await ticks()
    link.answer(link.sent[1], b"reply")
    assert await request == b"reply"


async def test_waiting_for_the_link_ends_when_the_transport_closes(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    link.sink.down(OSError("reset"))
    request = await begin(engine)
    await engine.aclose()
    with pytest.raises(TransportClosedError) as caught:
        await request
    assert not caught.value.maybe_executed
    assert clock.time() == START
