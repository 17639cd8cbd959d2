"""Notifies that a node confirms: for links whose broker cannot tell that a shard has no owner (T12)."""

from __future__ import annotations

import asyncio

import pytest

from clstr._messages.envelope import Envelope
from clstr._messages.wire import CODECS, JSON, Codec
from clstr.errors import NotOwnerError, RequestTimeoutError
from clstr.spi._engine import Engine
from spi.fakes import FakeLink, Hub, HubLink, OpenEngine, Worker, message, ticks
from spi.virtual_time import VirtualLoop


async def begin(engine: Engine) -> asyncio.Task[None]:
    task = asyncio.ensure_future(engine.notify(message()))
    await ticks()
    return task


# The sender.


async def test_a_notify_is_on_its_way_when_the_broker_has_it(engine: Engine, link: FakeLink) -> None:
    task = await begin(engine)
    assert not link.sent[0].frame.confirm
    link.sink.accepted(link.sent[0].token)
    await task


async def test_where_that_proves_no_owner_a_notify_is_on_its_way_when_a_node_confirms_it(
    engine: Engine, link: FakeLink
) -> None:
    link.needs_confirmation = True
    task = await begin(engine)
    assert link.sent[0].frame.confirm
    link.sink.accepted(link.sent[0].token)
    await ticks()
    assert not task.done()
    link.answer(link.sent[0], b"")
    await task


async def test_without_a_confirmation_it_ends_by_its_timeout(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    link.needs_confirmation = True
    task = await begin(engine)
    link.sink.accepted(link.sent[0].token)
    with pytest.raises(RequestTimeoutError) as raised:
        await task
    assert raised.value.maybe_executed


async def test_a_node_that_does_not_own_the_shard_says_so_and_it_is_sent_again(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    link.needs_confirmation = True
    task = await begin(engine)
    link.answer(link.sent[0], NotOwnerError(1))
    await ticks()
    link.answer(link.sent[1], b"")
    await task


async def test_a_request_asks_for_no_confirmation(engine: Engine, link: FakeLink) -> None:
    link.needs_confirmation = True
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    assert not link.sent[0].frame.confirm
    link.answer(link.sent[0], b"x")
    assert await request == b"x"


@pytest.mark.parametrize(("reply", "is_go"), [(b'{"data":"eA=="}', True), (b'{"v":1,"data":"eA=="}', False)])
async def test_beside_go_nodes_which_confirm_nothing_the_broker_s_word_has_to_do(
    open_engine: OpenEngine, link: FakeLink, reply: bytes, is_go: bool
) -> None:
    engine = await open_engine(codec="json")
    link.needs_confirmation = True
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    link.sink.answer(link.sent[0].token, reply)
    assert await request == b"x"
    task = await begin(engine)
    assert link.sent[1].frame.confirm is not is_go
    link.sink.accepted(link.sent[1].token)
    await ticks()
    assert task.done() is is_go
    if not is_go:
        link.answer(link.sent[1], b"")
    await task


# The node.


@pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
async def test_a_node_confirms_a_notify_before_its_handler_ends_and_once(
    engine: Engine, link: FakeLink, codec: Codec
) -> None:
    worker = Worker()
    await engine.subscribe([1], worker)
    link.deliver("a", codec=codec, oneway=True, confirm=True)
    await ticks()
    assert link.answer_to("a") == b""
    await worker.finish("a")
    await ticks()
    assert link.answer_to("a") == b""


async def test_what_becomes_of_a_confirmed_notify_is_not_reported(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(max_concurrent=1, max_queue=0)
    worker = Worker()
    await engine.subscribe([1], worker)
    for to in ("runs", "refused"):
        link.deliver(to, oneway=True, confirm=True)
    await ticks()
    assert [link.answer_to(to) for to in ("runs", "refused")] == [b"", b""]
    assert engine.counters.notify_failures == 1
    await worker.finish("runs")


async def test_a_notify_for_a_shard_that_is_not_held_is_refused_if_its_sender_waits(
    engine: Engine, link: FakeLink
) -> None:
    link.deliver("told", oneway=True, confirm=True)
    link.deliver("not told", oneway=True)
    assert isinstance(link.answer_to("told"), NotOwnerError)
    assert link.answer_to("not told") is None


async def test_without_an_address_nothing_is_confirmed(engine: Engine, link: FakeLink) -> None:
    await engine.subscribe([1], Worker())
    link.deliver("a", to=None, oneway=True, confirm=True, codec=JSON)
    await ticks()
    assert link.replies == []


async def test_a_request_that_states_it_is_answered_once(engine: Engine, link: FakeLink) -> None:
    async def answer(_: Envelope) -> bytes:
        return b"x"

    await engine.subscribe([1], answer)
    link.deliver("a", confirm=True)
    await ticks()
    assert link.answer_to("a") == b"x"


# Both.


@pytest.mark.parametrize("codec", CODECS)
async def test_confirmed_notifies_run_once(open_engine: OpenEngine, codec: str) -> None:
    hub = Hub()
    node, client = [await open_engine(HubLink(hub), codec=codec) for _ in range(2)]
    ran: list[str] = []

    async def note(envelope: Envelope) -> None:
        ran.append(envelope.type)

    await node.subscribe([1], note)
    client.link.needs_confirmation = True
    await asyncio.gather(*(client.notify(message(type=str(number))) for number in range(100)))
    await ticks()
    assert ran == [str(number) for number in range(100)]
    assert client.counters.late_replies == node.counters.notify_failures == 0
