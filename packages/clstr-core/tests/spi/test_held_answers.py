"""Answers that their callers have no room for: held by the node, and fetched in turns (T13)."""

from __future__ import annotations

import asyncio

import pytest

from clstr._messages.envelope import Envelope
from clstr._messages.wire import CODECS, JSON, MSGPACK, Codec, decode_reply
from clstr.errors import (
    AccessDeniedError,
    ClstrError,
    ConnectionLostError,
    NoShardSubscriberError,
    NotOwnerError,
    OverloadedError,
    RequestTimeoutError,
    TransportUnavailableError,
)
from clstr.spi._answer_window import MAX_TYPES, MIN_ROOM, UNKNOWN_ROOM, AnswerWindow
from clstr.spi._engine import Engine
from clstr.spi._held_answers import ANSWER_TYPE, FIRST_PRIVATE_SHARD, HELD, REFUSED_PAUSE
from spi.fakes import FakeLink, Hub, HubLink, OpenEngine, message, ticks
from spi.virtual_time import VirtualLoop

LARGE = b"x" * (UNKNOWN_ROOM + 1)


async def large(_: Envelope) -> bytes:
    return LARGE


def window_of(engine: Engine) -> AnswerWindow:
    return engine.pending.window


def notice(link: FakeLink, index: int = -1) -> tuple[int, str]:
    """Return the shard and the ticket of a held answer."""
    frame = decode_reply(link.bodies[index])
    assert (frame.code, frame.executed, frame.details["size"]) == (HELD, True, len(LARGE))
    at, ticket = frame.details["at"], frame.details["ticket"]
    assert isinstance(at, int)
    assert isinstance(ticket, str)
    return at, ticket


# The node.


@pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
async def test_an_answer_beyond_its_room_is_held_and_sent_when_it_is_asked_for(
    engine: Engine, link: FakeLink, codec: Codec
) -> None:
    await engine.subscribe([1], large)
    link.deliver("a", codec=codec, room=len(LARGE) - 1)
    await ticks()
    at, ticket = notice(link)
    assert ("hold", (at,)) in link.calls
    assert at >= FIRST_PRIVATE_SHARD
    assert engine.answer_budget.total_bytes > len(LARGE)
    link.deliver(ANSWER_TYPE, ticket.encode(), shard=at, codec=codec)
    assert link.answer_to(ANSWER_TYPE) == LARGE
    assert engine.answer_budget.total_bytes == 0


@pytest.mark.parametrize("room", [0, -1, len(LARGE)])
async def test_an_answer_within_its_room_or_to_a_sender_that_states_none_is_sent(
    engine: Engine, link: FakeLink, room: int
) -> None:
    await engine.subscribe([1], large)
    link.deliver("a", room=room, codec=JSON)
    await ticks()
    assert link.answer_to("a") == LARGE
    assert len(engine.answers.held) == 0


@pytest.mark.parametrize("ticket", [b"", b"\xff", b"0" * 32])
async def test_a_wrong_ticket_gets_nothing(engine: Engine, link: FakeLink, ticket: bytes) -> None:
    await engine.subscribe([1], large)
    link.deliver("a", room=1024)
    await ticks()
    at, _ = notice(link)
    link.deliver(ANSWER_TYPE, ticket, shard=at)
    assert isinstance(link.answer_to(ANSWER_TYPE), NotOwnerError)
    assert len(engine.answers.held) == 1


async def test_a_ticket_is_good_for_one_answer(engine: Engine, link: FakeLink) -> None:
    await engine.subscribe([1], large)
    link.deliver("a", room=1024)
    await ticks()
    at, ticket = notice(link)
    link.deliver(ANSWER_TYPE, ticket.encode(), shard=at, to="first")
    link.deliver(ANSWER_TYPE, ticket.encode(), shard=at, to="second")
    assert link.answer_to("first") == LARGE
    assert isinstance(link.answer_to("second"), NotOwnerError)


async def test_a_held_answer_ends_with_its_deadline(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    await engine.subscribe([1], large)
    link.deliver("a", room=1024, ttl_ms=5000, v=1)
    await ticks()
    await asyncio.sleep(4.9)
    assert len(engine.answers.held) == 1
    await asyncio.sleep(0.2)
    assert len(engine.answers.held) == engine.answer_budget.total_bytes == 0
    assert engine.counters.dropped_replies == 1


async def test_the_private_shard_is_held_once_and_every_answer_waits_for_it(engine: Engine, link: FakeLink) -> None:
    confirmed = asyncio.Event()
    await engine.subscribe([1], large)

    async def confirm() -> None:
        await confirmed.wait()

    link.script["hold"] = confirm
    link.deliver("a", room=1024)
    link.deliver("b", room=1024)
    await ticks()
    assert link.replies == []
    confirmed.set()
    await ticks()
    link.deliver("c", room=1024)
    await ticks()
    assert len(link.replies) == len(engine.answers.held) == 3
    assert [name for name, _ in link.calls].count("hold") == 2  # the subscription's, and this


async def test_where_the_private_shard_is_refused_answers_are_sent_at_once(engine: Engine, link: FakeLink) -> None:
    await engine.subscribe([1], large)

    async def refuse() -> None:
        raise AccessDeniedError("no right to it")

    link.script["hold"] = refuse
    link.deliver("a", room=1024)
    await ticks()
    assert link.answer_to("a") == LARGE
    assert engine.answer_budget.total_bytes == 0


async def test_a_refused_private_shard_is_asked_for_again_after_a_pause(
    engine: Engine, link: FakeLink, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Not for each answer, and with one line of log."""
    await engine.subscribe([1], large)

    async def refuse() -> None:
        raise AccessDeniedError("no right to it")

    link.script["hold"] = refuse
    for to in ("a", "b", "c"):
        link.deliver(to, room=1024)
        await ticks()
        assert link.answer_to(to) == LARGE
    assert [name for name, _ in link.calls].count("hold") == 2  # the subscription's, and one for the three
    assert caplog.text.count("the broker refuses shard") == 1
    del link.script["hold"]
    await asyncio.sleep(REFUSED_PAUSE)
    link.deliver("d", room=1024)
    await ticks()
    notice(link)
    assert len(engine.answers.held) == 1


async def test_a_link_that_is_down_when_the_private_shard_is_needed_is_no_refusal(
    engine: Engine, link: FakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    await engine.subscribe([1], large)

    async def lose() -> None:
        raise TransportUnavailableError("lost meanwhile")

    link.script["hold"] = lose
    link.deliver("a", room=1024)
    await ticks()
    assert link.answer_to("a") == LARGE
    del link.script["hold"]
    link.deliver("b", room=1024)
    await ticks()
    notice(link)
    assert "refuses" not in caplog.text


async def test_closing_waits_until_held_answers_are_fetched(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine()
    await engine.subscribe([1], large)
    link.deliver("a", room=1024)
    await ticks()
    at, ticket = notice(link)
    closing = asyncio.ensure_future(engine.aclose())
    await ticks()
    assert not closing.done()
    link.deliver(ANSWER_TYPE, ticket.encode(), shard=at)
    await closing
    assert link.answer_to(ANSWER_TYPE) == LARGE
    assert engine.counters.dropped_replies == 0


# The caller.


async def begin(engine: Engine, type_: str = "t", timeout: float = 5.0) -> asyncio.Task[bytes]:
    task = asyncio.ensure_future(engine.request(message(type=type_), timeout=timeout))
    await ticks()
    return task


def hold_for(link: FakeLink, index: int = -1, size: int = 100_000, at: int = 3_000_000_000) -> None:
    details = {"size": size, "at": at, "ticket": "secret"}
    frame = MSGPACK.new_reply(err="held", code=HELD, details=details, executed=True)
    link.sink.answer(link.sent[index].token, MSGPACK.encode(frame))


async def test_a_caller_fetches_a_held_answer_with_a_request_of_its_own(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    assert link.sent[0].frame.room == UNKNOWN_ROOM
    hold_for(link)
    await ticks()
    fetch = link.sent[1]
    assert (fetch.shard, fetch.frame.type, fetch.frame.data) == (3_000_000_000, ANSWER_TYPE, b"secret")
    assert fetch.frame.room == 0
    assert fetch.token != link.sent[0].token
    assert window_of(engine).used_bytes == 100_000
    link.answer(fetch, b"answer")
    assert await request == b"answer"
    assert window_of(engine).used_bytes == 0


async def test_held_answers_take_turns(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(max_inflight_bytes=250_000)
    requests = [await begin(engine) for _ in range(3)]
    for index in range(3):
        hold_for(link, index)
    await ticks()
    assert len(link.sent) == 5
    link.answer(link.sent[3], b"1")
    await ticks()
    for sent in link.sent[4:]:
        link.answer(sent, b"1")
    assert await asyncio.gather(*requests) == [b"1"] * 3
    assert window_of(engine).used_bytes == 0


async def test_a_node_that_is_gone_with_the_answer_is_a_lost_connection(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    hold_for(link)
    await ticks()
    link.sink.refused(link.sent[1].token, NoShardSubscriberError(3_000_000_000))
    with pytest.raises(ConnectionLostError) as raised:
        await request
    assert raised.value.maybe_executed
    assert window_of(engine).used_bytes == 0


async def test_a_peer_that_drew_the_same_private_shard_is_asked_past(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    request = await begin(engine)
    hold_for(link)
    await ticks()
    link.answer(link.sent[1], NotOwnerError(3_000_000_000))
    await ticks()
    link.answer(link.sent[2], b"answer")
    assert await request == b"answer"


@pytest.mark.parametrize("error", [OverloadedError("max_unsent_bytes", 1), TransportUnavailableError("not yet")])
async def test_a_fetch_waits_until_the_link_takes_it(
    engine: Engine, link: FakeLink, clock: VirtualLoop, error: ClstrError
) -> None:
    """Nothing has left, and the node keeps the answer: no other error than that of the timeout is true."""
    request = await begin(engine)
    link.send_error = error
    hold_for(link)
    await asyncio.sleep(1)
    assert not request.done()
    link.send_error = None
    link.sink.up()
    await asyncio.sleep(1)
    link.answer(link.sent[-1], b"answer")
    assert await request == b"answer"
    assert window_of(engine).used_bytes == 0


async def test_a_fetch_that_the_link_never_takes_ends_by_the_timeout(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    request = await begin(engine)
    link.send_error = OverloadedError("max_unsent_bytes", 1)
    hold_for(link)
    with pytest.raises(RequestTimeoutError) as raised:
        await request
    assert (raised.value.shard, raised.value.maybe_executed) == (1, True)
    assert window_of(engine).used_bytes == 0


@pytest.mark.parametrize("waits_for_turn", [True, False])
async def test_a_timeout_while_the_answer_is_held_names_the_request(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop, waits_for_turn: bool
) -> None:
    engine = await open_engine(max_inflight_bytes=1)
    if waits_for_turn:
        other = await begin(engine, timeout=50)
        hold_for(link)
        await ticks()
    request = await begin(engine)
    hold_for(link)
    with pytest.raises(RequestTimeoutError) as raised:
        await request
    assert (raised.value.shard, raised.value.maybe_executed) == (1, True)
    if waits_for_turn:
        other.cancel()
        await asyncio.wait([other])
    assert window_of(engine).used_bytes == 0


@pytest.mark.parametrize("step", ["asked", "held", "waiting"])
async def test_a_cancelled_request_gives_its_room_back(open_engine: OpenEngine, link: FakeLink, step: str) -> None:
    engine = await open_engine(max_inflight_bytes=300_000)
    tasks = [await begin(engine)]
    if step != "asked":
        hold_for(link, size=250_000)
        await ticks()
    if step == "waiting":
        tasks.append(await begin(engine))
        hold_for(link, size=250_000)
        await ticks()
    for task in reversed(tasks):
        task.cancel()
        await asyncio.wait([task])
    assert window_of(engine).used_bytes == 0


async def test_a_lost_link_does_not_lose_an_answer_that_waits_at_its_node(engine: Engine, link: FakeLink) -> None:
    request = await begin(engine)
    link.sink.answer(link.sent[0].token, encode_held())
    link.sink.down(OSError("cut"))
    await ticks()
    link.sink.up()
    await ticks()
    link.answer(link.sent[-1], b"answer")
    assert await request == b"answer"


def encode_held() -> bytes:
    details = {"size": 10, "at": 3_000_000_000, "ticket": "secret"}
    return MSGPACK.encode(MSGPACK.new_reply(err="held", code=HELD, details=details))


@pytest.mark.parametrize("details", [{}, {"size": 1, "at": -1, "ticket": ""}, {"size": 0, "at": 1, "ticket": ""}])
async def test_a_notice_that_says_too_little_ends_the_request(
    engine: Engine, link: FakeLink, details: dict[str, int | str]
) -> None:
    request = await begin(engine)
    frame = MSGPACK.new_reply(err="held", code=HELD, details=details)
    link.sink.answer(link.sent[0].token, MSGPACK.encode(frame))
    with pytest.raises(Exception, match="held"):
        await request


async def test_a_notify_has_no_room(engine: Engine, link: FakeLink) -> None:
    task = asyncio.ensure_future(engine.notify(message()))
    await ticks()
    assert link.sent[0].frame.room == 0
    link.sink.accepted(link.sent[0].token)
    await task


# Both.


@pytest.mark.parametrize("codec", CODECS)
async def test_many_large_answers_reach_one_caller_a_window_at_a_time(open_engine: OpenEngine, codec: str) -> None:
    hub = Hub()
    nodes = [await open_engine(HubLink(hub), codec=codec) for _ in range(4)]
    for shard, node in enumerate(nodes):
        await node.subscribe([shard], large)
    client = await open_engine(HubLink(hub), codec=codec, max_inflight_bytes=4 * len(LARGE))
    requests = (client.request(message(number % 4, type="Get")) for number in range(120))
    assert await asyncio.gather(*requests) == [LARGE] * 120
    assert window_of(client).used_bytes == 0
    assert all(node.answer_budget.total_bytes == 0 for node in nodes)


# The window.


def test_a_known_type_gets_what_its_answers_took_and_forgets_large_ones_step_by_step() -> None:
    window = AnswerWindow(1_000_000)
    window.learn("t", 100_000)
    assert window.reserve("t") == 100_000
    window.learn("t", 10)
    window.release(100_000)
    assert window.reserve("t") == 87_500


def test_rooms_together_have_half_of_the_window_and_each_at_least_a_little() -> None:
    window = AnswerWindow(4 * UNKNOWN_ROOM)
    rooms = [window.reserve(str(number)) for number in range(4)]
    assert rooms == [UNKNOWN_ROOM, UNKNOWN_ROOM, MIN_ROOM, MIN_ROOM]
    for room in rooms:
        window.release(room)
    assert window.used_bytes == 0


def test_the_types_that_are_remembered_are_bounded() -> None:
    window = AnswerWindow(1_000_000)
    for number in range(MAX_TYPES + 1):
        window.learn(str(number), 10)
    assert window.reserve("0") == UNKNOWN_ROOM
    assert window.reserve("1") == MIN_ROOM
