"""The engine under `asyncio.eager_task_factory`: a handler's first step runs inside of the call that starts it."""

from __future__ import annotations

import asyncio

import pytest

from clstr._messages.envelope import Envelope
from clstr.abc import CloseReport
from clstr.errors import EnvelopeExpiredError, HandlerError, HandlerTimeoutError
from clstr.spi import Route
from clstr.spi._engine import Engine
from spi.fakes import FakeLink, Hub, HubLink, OpenEngine, echo, hang, leftovers, message, ticks
from spi.virtual_time import START, VirtualLoop

pytestmark = pytest.mark.usefixtures("eager")


async def test_a_handler_that_never_waits_is_done_when_its_message_is_delivered(engine: Engine, link: FakeLink) -> None:
    await engine.subscribe([1], echo)
    link.deliver("a", b"data")
    assert link.answer_to("a") == b"data"
    await ticks()
    assert leftovers(engine) == {}


async def test_a_handler_that_raises_at_once_is_answered(engine: Engine, link: FakeLink) -> None:
    async def handler(_: Envelope) -> bytes:
        raise ValueError("bad")

    await engine.subscribe([1], handler)
    link.deliver("a")
    assert isinstance(link.answer_to("a"), HandlerError)
    await ticks()
    assert leftovers(engine) == {}


async def test_the_next_handler_does_not_start_inside_of_a_request(open_engine: OpenEngine) -> None:
    started: list[str] = []
    at_send: list[list[str]] = []

    class Watching(FakeLink):
        def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
            at_send.append(list(started))
            return super().send(shard, token, body, oneway=oneway)

    async def handler(envelope: Envelope) -> bytes:
        started.append(envelope.type)
        await go_on.wait()
        return await engine.request(message(shard=2))

    go_on = asyncio.Event()
    link = Watching()
    engine = await open_engine(link, max_concurrent=1)
    await engine.subscribe([1], handler)
    link.deliver("a")
    link.deliver("b")
    go_on.set()
    await ticks()
    assert at_send == [["a"], ["a", "b"]]
    for sent in link.sent:
        link.answer(sent, b"reply")
    await ticks()
    assert (link.answer_to("a"), link.answer_to("b")) == (b"reply", b"reply")
    assert leftovers(engine) == {}


async def test_the_limit_holds_for_waiting_messages_that_end_at_once(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(max_concurrent=2)
    active: list[int] = []

    async def handler(envelope: Envelope) -> bytes:
        active.append(engine.dispatcher.active)
        if envelope.data:
            await ticks(3)
        return b""

    await engine.subscribe([1], handler)
    for index in range(50):
        link.deliver(str(index), b"waits" if index % 3 == 0 else b"")
    await ticks(200)
    assert len(link.replies) == 50
    assert max(active) == 2
    assert leftovers(engine) == {}


async def test_a_handler_may_close_its_transport_in_its_first_step(engine: Engine, link: FakeLink) -> None:
    reports: list[CloseReport] = []

    async def handler(_: Envelope) -> bytes:
        reports.append(await engine.aclose())
        return b"closed"

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    assert reports == [CloseReport()]
    assert link.answer_to("a") == b"closed"
    assert leftovers(engine) == {}


async def test_deadlines_hold(open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop) -> None:
    engine = await open_engine(handler_timeout=3)

    async def handler(_: Envelope) -> bytes:
        await hang()
        return b""

    await engine.subscribe([1], handler)
    link.deliver("a")
    await asyncio.sleep(3.02)
    assert isinstance(link.answer_to("a"), HandlerTimeoutError)
    assert clock.time() == START + 3.02
    assert leftovers(engine) == {}


async def test_two_peers_talk(open_engine: OpenEngine) -> None:
    hub = Hub()
    server, client = await open_engine(HubLink(hub), max_concurrent=2), await open_engine(HubLink(hub))

    async def handler(envelope: Envelope) -> bytes:
        if envelope.data == b"leaf":
            return b"1"
        replies = await asyncio.gather(*(server.request(message(data=b"leaf")) for _ in range(2)))
        return b"".join(replies)

    await server.subscribe([1], handler)
    replies = await asyncio.gather(*(client.request(message()) for _ in range(50)))
    assert replies == [b"11"] * 50
    assert leftovers(server) == leftovers(client) == {}


async def test_what_expires_behind_a_message_of_the_same_read_never_starts(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    """Its TTL counts from the read, and so do the wait and the TTL that its handler sees."""
    begun: list[tuple[bytes, float]] = []

    async def handler(envelope: Envelope) -> bytes:
        left = envelope.ttl()
        assert left is not None
        begun.append((envelope.data, round(left, 1)))
        clock.jump(0.4)
        return b""

    await engine.subscribe([1], handler)
    read_at = clock.time()
    for name, ttl_ms in (("a", 1000), ("b", 1000), ("c", 700), ("d", 1000), ("e", 5000)):
        link.deliver(data=name.encode(), to=name, read_at=read_at, ttl_ms=ttl_ms)
    await ticks()
    link.deliver(data=b"f", read_at=clock.time(), ttl_ms=700)
    # "c" is over, and what is left for "d" is less than a run takes.
    assert [name for name, _ in begun] == [b"a", b"b", b"e", b"f"]
    assert [type(link.answer_to(name)) for name in "cd"] == [EnvelopeExpiredError] * 2
    assert engine.counters.refused == {"expired": 2}
    await ticks()
    assert leftovers(engine) == {}
