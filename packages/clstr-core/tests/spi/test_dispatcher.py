"""Admission: slots and lent slots, two queues, and deadlines (T6, T7, T8)."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from clstr._actors.turns import Turns
from clstr._context import base_context, current
from clstr._messages.envelope import Envelope
from clstr.errors import (
    ClstrError,
    DrainingError,
    EnvelopeExpiredError,
    HandlerError,
    HandlerTimeoutError,
    OverloadedError,
    RequestTimeoutError,
)
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import SPARE
from clstr.spi._engine import Engine
from spi.fakes import FakeLink, Hub, HubLink, OpenEngine, Stubborn, Worker, echo, leftovers, linked, message, ticks
from spi.virtual_time import VirtualLoop

Serve = Callable[..., Awaitable[tuple[Engine, FakeLink]]]


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
async def serve(open_engine: OpenEngine, worker: Worker) -> Serve:
    """Open an engine with limits whose shard 1 is the worker's."""

    async def open_(**limits: Any) -> tuple[Engine, FakeLink]:  # Any: the fields of Limits
        engine = await open_engine(**limits)
        await engine.subscribe([1], worker)
        return engine, linked(engine)

    return open_


class Asker:
    """A handler that asks shard 2 as often at once as its message's data says."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.started: list[str] = []
        self.children: list[asyncio.Task[bytes]] = []

    async def __call__(self, envelope: Envelope) -> bytes:
        self.started.append(envelope.type)
        requests = [self.engine.request(message(shard=2)) for _ in range(int(envelope.data or b"1"))]
        return b",".join(await asyncio.gather(*requests))


def counts(engine: Engine) -> tuple[int, int, int]:
    dispatcher = engine.dispatcher
    return dispatcher.active, dispatcher.suspended, dispatcher.waiting


def own() -> Delivery:
    delivery = current()
    assert isinstance(delivery, Delivery)
    return delivery


# Slots and queues.


async def test_at_most_max_concurrent_run_also_within_a_shard_and_the_rest_in_turn(
    serve: Serve, worker: Worker
) -> None:
    engine, link = await serve(max_concurrent=2)
    for type_ in "abcde":
        link.deliver(type_)
    await ticks()
    assert worker.started == ["a", "b"]
    assert counts(engine) == (2, 0, 3)
    await worker.finish("b")
    assert worker.started == ["a", "b", "c"]
    await worker.finish("a", "c", "d", "e")
    assert worker.started == ["a", "b", "c", "d", "e"]
    assert worker.peak == 2
    assert {link.answer_to(type_) for type_ in "abcde"} == {b"done"}


async def test_a_full_queue_refuses_at_once(serve: Serve, worker: Worker) -> None:
    engine, link = await serve(max_concurrent=1, max_queue=2)
    for type_ in "abcd":
        link.deliver(type_)
    error = link.answer_to("d")
    assert isinstance(error, OverloadedError)
    assert (error.limit, error.bound, error.maybe_executed) == ("max_queue", 2, False)
    await worker.finish("a", "b", "c")
    assert worker.started == ["a", "b", "c"]
    assert engine.counters.refused.total() == 1


async def test_without_a_queue_only_slots_count(serve: Serve, worker: Worker) -> None:
    _, link = await serve(max_concurrent=1, max_queue=0)
    link.deliver("a")
    link.deliver("b")
    assert isinstance(link.answer_to("b"), OverloadedError)
    await worker.finish("a")
    link.deliver("c")
    await worker.finish("c")
    assert worker.started == ["a", "c"]


async def test_the_queue_is_bounded_in_bytes_too(serve: Serve, worker: Worker) -> None:
    _, link = await serve(max_concurrent=1, max_queue_bytes=2500)
    for type_ in "abcd":  # each has some bytes beside its data; the first runs
        link.deliver(type_, bytes(1000))
    error = link.answer_to("d")
    assert isinstance(error, OverloadedError)
    assert (error.limit, error.bound) == ("max_queue_bytes", 2500)
    await worker.finish("a")  # now "b" runs, and only "c" waits
    link.deliver("e", bytes(1000))
    await worker.finish("b", "c", "e")
    assert worker.started == ["a", "b", "c", "e"]


async def test_refused_and_expired_bytes_are_free_again(serve: Serve, worker: Worker, clock: VirtualLoop) -> None:
    _, link = await serve(max_concurrent=1, max_queue_bytes=1500)
    link.deliver("a")
    link.deliver("b", bytes(1000), ttl_ms=1000)
    await asyncio.sleep(2)
    assert isinstance(link.answer_to("b"), EnvelopeExpiredError)
    link.deliver("c", bytes(1000))
    await worker.finish("a", "c")
    assert worker.started == ["a", "c"]


async def test_handlers_start_in_the_context_of_the_opening_not_of_the_reader(engine: Engine, link: FakeLink) -> None:
    seen: list[object] = []

    async def handler(envelope: Envelope) -> bytes:
        seen.append(own().envelope)
        if envelope.type == "outer":  # delivers from inside a handler, as an in-process link may
            link.deliver("inner")
        return b""

    await engine.subscribe([1], handler)
    link.deliver("outer")
    await ticks()
    assert [getattr(envelope, "type", None) for envelope in seen] == ["outer", "inner"]


async def test_work_for_a_key_has_the_context_of_the_opening_even_after_the_message(
    open_engine: OpenEngine,
) -> None:
    """Neither the message nor what its handler set: an `on_stop` may follow long after."""
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    tenant.set("the application")
    engine = await open_engine()
    ended = asyncio.Event()
    seen: list[tuple[str, object]] = []

    def see() -> None:
        seen.append((tenant.get(), current()))

    async def afterwards() -> None:
        await ended.wait()
        base_context().copy().run(see)

    async def handler(envelope: Envelope) -> bytes:
        tenant.set("a caller")
        base_context().copy().run(see)
        left_behind.append(asyncio.create_task(afterwards()))
        return b""

    left_behind: list[asyncio.Task[None]] = []
    await engine.subscribe([1], handler)
    linked(engine).deliver("a")
    await ticks()
    ended.set()
    await asyncio.wait_for(left_behind[0], 5)
    assert seen == [("the application", None)] * 2


# Lent slots.


async def test_a_handler_that_awaits_a_request_lends_its_slot(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(max_concurrent=1)
    asker = Asker(engine)
    await engine.subscribe([1], asker)
    link.deliver("a")
    link.deliver("b")
    await ticks()
    assert asker.started == ["a", "b"]
    assert counts(engine) == (0, 2, 0)
    for sent in link.sent:
        link.answer(sent, b"reply")
    await ticks()
    assert (link.answer_to("a"), link.answer_to("b")) == (b"reply", b"reply")
    assert leftovers(engine) == {}


async def test_two_requests_at_once_lend_until_both_are_answered(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine()
    await engine.subscribe([1], Asker(engine))
    link.deliver("a", b"2")
    await ticks()
    assert counts(engine) == (0, 1, 0)
    link.answer(link.sent[1], b"two")
    await ticks()
    assert counts(engine) == (0, 1, 0)
    link.answer(link.sent[0], b"one")
    await ticks()
    assert link.answer_to("a") == b"one,two"
    assert leftovers(engine) == {}


async def test_a_failed_or_cancelled_request_takes_the_slot_back(engine: Engine, link: FakeLink) -> None:
    seen: list[tuple[int, int, int]] = []

    async def handler(_: Envelope) -> bytes:
        task = asyncio.ensure_future(engine.request(message(shard=2)))
        await ticks(5)
        seen.append(counts(engine))
        task.cancel()
        await asyncio.wait({task})
        seen.append(counts(engine))
        link.send_error = OSError("broken pipe")
        with pytest.raises(OSError, match="broken pipe"):
            await engine.request(message(shard=2))
        with pytest.raises(ValueError, match="ttl_ms"):
            await engine.request(message(shard=2, ttl_ms=-1))
        seen.append(counts(engine))
        return b""

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    assert seen == [(0, 1, 0), (1, 0, 0), (1, 0, 0)]


async def test_lending_nests(engine: Engine, link: FakeLink) -> None:
    """Somebody who waits for a turn lends, and so does a child task's request meanwhile."""
    seen: list[tuple[int, int, int]] = []

    async def handler(_: Envelope) -> bytes:
        for step in (own().lend, own().lend, own().lend, own().reclaim, own().reclaim, own().reclaim):
            step()
            seen.append(counts(engine))
        return b""

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    lent = (0, 1, 0)
    assert seen == [lent, lent, lent, lent, lent, (1, 0, 0)]


@pytest.mark.parametrize("depth", [1, 2, 5])
async def test_a_slot_that_ends_while_lent_leaves_the_count_of_the_suspended(
    engine: Engine, link: FakeLink, depth: int
) -> None:
    children: list[asyncio.Task[bytes]] = []

    async def handler(_: Envelope) -> bytes:
        children.extend(asyncio.ensure_future(engine.request(message(shard=2))) for _ in range(depth))
        await ticks(5)
        assert counts(engine) == (0, 1, 0)
        return b"early"

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    assert link.answer_to("a") == b"early"
    assert counts(engine) == (0, 0, 0)
    for sent in link.sent:
        link.answer(sent)
        await ticks(5)
        assert counts(engine) == (0, 0, 0)
    await asyncio.gather(*children)


async def test_child_tasks_that_outlive_the_handler_no_longer_act_for_it(engine: Engine, link: FakeLink) -> None:
    go_on = asyncio.Event()
    children: list[asyncio.Task[bytes]] = []

    async def child() -> bytes:
        assert current() is not None
        await go_on.wait()
        assert current() is None
        return await engine.request(message(shard=2, headers={"x-clstr-key": "k"}))

    async def handler(_: Envelope) -> bytes:
        children.append(asyncio.ensure_future(child()))
        await ticks(5)
        return b""

    await engine.subscribe([1], handler)
    link.deliver("a", depth=3, chain=["k0"])
    await ticks()
    go_on.set()
    await ticks()
    (sent,) = link.sent
    assert (sent.frame.depth, sent.frame.chain) == (0, [])
    assert counts(engine) == (0, 0, 0)
    link.answer(sent, b"reply")
    assert await children[0] == b"reply"


async def test_a_slot_that_is_taken_back_may_exceed_the_limit_but_then_nothing_starts(
    open_engine: OpenEngine, link: FakeLink, worker: Worker
) -> None:
    engine = await open_engine(max_concurrent=1)

    async def handler(envelope: Envelope) -> bytes:
        if envelope.type.startswith("asks"):
            await engine.request(message(shard=2))
        return await worker(envelope)

    await engine.subscribe([1], handler)
    for type_ in ("asks 1", "asks 2", "b", "c", "d"):
        link.deliver(type_)
    await ticks()
    assert worker.started == ["b"]
    for sent in link.sent:
        link.answer(sent)
    await ticks()
    assert worker.started == ["b", "asks 1", "asks 2"]
    assert counts(engine) == (3, 0, 2)
    await worker.finish("b")
    await worker.finish("asks 2")
    assert counts(engine) == (1, 0, 2)
    await worker.finish("asks 1")
    assert worker.started[3:] == ["c"]
    await worker.finish("c", "d")


async def test_a_handler_lends_its_slot_whichever_transport_it_asks(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine(max_concurrent=1)
    other = await open_engine(FakeLink())
    asker = Asker(other)
    await engine.subscribe([1], asker)
    link.deliver("a")
    link.deliver("b")
    await ticks()
    assert asker.started == ["a", "b"]
    assert counts(engine) == (0, 2, 0)
    assert counts(other) == (0, 0, 0)
    for sent in linked(other).sent:
        linked(other).answer(sent)
    await ticks()


async def test_a_slot_is_not_lent_from_another_thread(engine: Engine, link: FakeLink) -> None:
    """A handler that runs another loop in a thread takes its context along; its slot stays."""
    seen: list[tuple[int, int, int]] = []

    async def ask_there() -> None:
        there_link = FakeLink()
        there = await Engine(there_link).open()
        request = asyncio.ensure_future(there.request(message()))
        await ticks(3)
        seen.append(counts(engine))
        assert there_link.sent[0].frame.depth == 1
        there_link.answer(there_link.sent[0])
        await request
        await there.aclose()
        seen.append(counts(engine))

    async def handler(_: Envelope) -> bytes:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(asyncio.run, ask_there()))
        thread.start()
        thread.join()
        return b"done"

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    assert link.answer_to("a") == b"done"
    assert seen == [(1, 0, 0)] * 2


async def test_a_notify_inside_a_handler_neither_lends_nor_nests(engine: Engine, link: FakeLink) -> None:
    seen = []

    async def handler(_: Envelope) -> bytes:
        task = asyncio.ensure_future(engine.notify(message(shard=2, headers={"x-clstr-key": "k"})))
        await ticks(5)
        seen.append(counts(engine))
        link.sink.accepted(link.sent[0].token)
        await task
        return b""

    await engine.subscribe([1], handler)
    link.deliver("a", depth=2, chain=["k0"])
    await ticks()
    assert seen == [(1, 0, 0)]
    assert (link.sent[0].frame.depth, link.sent[0].frame.chain) == (0, [])
    assert link.answer_to("a") == b""


# Nested requests.


async def test_nested_messages_start_before_all_others(serve: Serve, worker: Worker) -> None:
    _, link = await serve(max_concurrent=1)
    link.deliver("running")
    for type_, depth in [("outer 1", 0), ("outer 2", 0), ("nested 1", 1), ("nested 2", 5)]:
        link.deliver(type_, depth=depth)
    await worker.finish("running", "nested 1", "nested 2", "outer 1", "outer 2")
    assert worker.started == ["running", "nested 1", "nested 2", "outer 1", "outer 2"]


async def test_nested_messages_have_a_queue_of_the_same_size_of_their_own(serve: Serve, worker: Worker) -> None:
    _, link = await serve(max_concurrent=1, max_queue=1)
    link.deliver("running")
    for type_, depth in [("outer", 0), ("outer over", 0), ("nested", 1), ("nested over", 1)]:
        link.deliver(type_, depth=depth)
    assert isinstance(link.answer_to("outer over"), OverloadedError)
    assert isinstance(link.answer_to("nested over"), OverloadedError)
    await worker.finish("running", "nested", "outer")
    assert worker.started == ["running", "nested", "outer"]


async def test_what_arrives_while_a_slot_becomes_free_does_not_overtake(
    open_engine: OpenEngine, link: FakeLink
) -> None:
    engine = await open_engine(max_concurrent=1)
    asker = Asker(engine)
    await engine.subscribe([1], asker)

    async def late() -> None:
        while not link.sent:  # noqa: ASYNC110 -- this very tick matters
            await asyncio.sleep(0)
        link.deliver("late")  # the slot is lent, and those who wait have not been woken yet

    waiting = asyncio.ensure_future(late())
    link.deliver("a")
    link.deliver("b")
    link.deliver("c")
    await waiting
    await ticks()
    assert asker.started == ["a", "b", "c", "late"]
    for sent in link.sent:
        link.answer(sent)
    await ticks()


async def test_only_some_from_outside_are_suspended_and_nested_messages_may_be_more(
    open_engine: OpenEngine, link: FakeLink
) -> None:
    engine = await open_engine(max_concurrent=1, max_queue=3)
    asker = Asker(engine)
    await engine.subscribe([1], asker)
    first, last = [f"m{number}" for number in range(1 + SPARE)], "last"
    for type_ in (*first, last):
        link.deliver(type_)
        await ticks(5)
    assert asker.started == first
    assert counts(engine) == (0, 1 + SPARE, 1)
    link.deliver("nested", depth=1)
    await ticks()
    assert asker.started == [*first, "nested"]
    link.answer(link.sent[0])
    await ticks()
    assert asker.started == [*first, "nested", last]
    for sent in link.sent:
        link.answer(sent)
    await ticks()


@pytest.mark.parametrize(("slots", "latency"), [(2, 0), (2, 0.001), (100, 0), (100, 0.001), (100, 0.01)])
async def test_nested_requests_with_fan_out_all_answer(
    open_engine: OpenEngine, clock: VirtualLoop, slots: int, latency: float
) -> None:
    """A plain bound deadlocks here, and lending with one queue answers none (T6)."""
    depth, callers = 3, 200
    hub = Hub(latency)
    server = await open_engine(HubLink(hub), max_concurrent=slots)
    client = await open_engine(HubLink(hub))
    leaves = peak = total = 0

    async def handler(envelope: Envelope) -> bytes:
        nonlocal leaves, peak, total
        total += 1
        level = int(envelope.data)
        if level == depth:
            leaves += 1
            peak = max(peak, leaves)
            await ticks(3)
            leaves -= 1
            return b"1"
        onward = [message(shard, str(level + 1).encode()) for shard in (0, 1)]
        replies = await asyncio.gather(*(server.request(each, timeout=60) for each in onward))
        return str(sum(map(int, replies))).encode()

    await server.subscribe(range(2), handler)
    requests = [asyncio.ensure_future(client.request(message(0, b"0"), timeout=60)) for _ in range(callers)]
    await asyncio.gather(*requests, return_exceptions=True)
    for request in requests:
        assert await request == str(2**depth).encode()
    assert total == callers * (2 ** (depth + 1) - 1)
    assert peak <= slots
    await ticks()
    assert leftovers(server) == {}


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_starts_above_the_limit_whatever_is_lent_cancelled_or_expired(
    open_engine: OpenEngine, seed: int, clock: VirtualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    hub = Hub()
    server = await open_engine(HubLink(hub), max_concurrent=3, max_queue=20, handler_timeout=2)
    client = await open_engine(HubLink(hub))
    active_at_start: list[int] = []

    async def handler(envelope: Envelope) -> bytes:
        for _ in range(chance.randrange(4)):
            if chance.random() < 0.5:
                await asyncio.sleep(chance.random())
            onward = (
                server.request(message(1, ttl_ms=chance.choice([0, 300])), timeout=0.1 + chance.random())
                for _ in range(chance.randrange(3))
                if int(envelope.data or b"0") < 3
            )
            await asyncio.gather(*onward, return_exceptions=True)
        return b""

    def start(delivery: Delivery) -> None:
        really_start(delivery)
        active_at_start.append(server.dispatcher.active)

    really_start = server.dispatcher._start
    monkeypatch.setattr(server.dispatcher, "_start", start)
    await server.subscribe([1], handler)
    callers = []
    for _ in range(300):
        callers.append(asyncio.ensure_future(client.request(message(1, ttl_ms=chance.choice([0, 500])), timeout=3)))
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() / 5)
        if chance.random() < 0.2:
            chance.choice(callers).cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await asyncio.sleep(60)
    assert max(active_at_start) <= 3
    assert len(active_at_start) > 100
    assert leftovers(server) == {}
    assert leftovers(client) == {}


# Deadlines.


async def test_a_handler_has_handler_timeout_and_then_is_cancelled(
    serve: Serve, worker: Worker, clock: VirtualLoop
) -> None:
    engine, link = await serve(handler_timeout=30)
    link.deliver("a")
    await asyncio.sleep(29.9)
    assert link.answer_to("a") is None
    await asyncio.sleep(0.2)
    error = link.answer_to("a")
    assert isinstance(error, HandlerTimeoutError)
    assert (error.shard, error.timeout, error.maybe_executed) == (1, 30, True)
    assert worker.cancelled == ["a"]
    assert engine.counters.handler_timeouts == 1
    assert leftovers(engine) == {}


async def test_a_ttl_that_is_shorter_counts(serve: Serve, worker: Worker, clock: VirtualLoop) -> None:
    _, link = await serve(handler_timeout=30)
    link.deliver("a", ttl_ms=1500)
    await asyncio.sleep(1.4)
    assert link.answer_to("a") is None
    await asyncio.sleep(0.2)
    error = link.answer_to("a")
    assert isinstance(error, HandlerTimeoutError)
    assert error.timeout == pytest.approx(1.5)


async def test_what_is_left_of_the_ttl_after_the_queue_counts(serve: Serve, worker: Worker, clock: VirtualLoop) -> None:
    _, link = await serve(max_concurrent=1)
    link.deliver("a")
    link.deliver("b", ttl_ms=5000)
    await asyncio.sleep(3)
    await worker.finish("a")
    assert worker.started == ["a", "b"]
    await asyncio.sleep(2.1)
    error = link.answer_to("b")
    assert isinstance(error, HandlerTimeoutError)
    assert error.timeout == pytest.approx(2)


async def test_a_handler_knows_the_time_that_it_has_left(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    left = []

    async def handler(_: Envelope) -> bytes:
        left.append(own().time_left())
        await asyncio.sleep(20)
        left.append(own().time_left())
        clock.jump(20)
        left.append(own().time_left())
        return b""

    await engine.subscribe([1], handler)
    link.deliver("a")
    await asyncio.sleep(25)
    assert left == [30, 10, 0]


async def test_a_handler_that_ignores_cancellation_keeps_its_slot_and_the_caller_is_told_in_time(
    open_engine: OpenEngine, link: FakeLink, stubborn: Stubborn, clock: VirtualLoop
) -> None:
    engine = await open_engine(max_concurrent=1, handler_timeout=5)
    started = []

    async def handler(envelope: Envelope) -> bytes:
        started.append(envelope.type)
        return await stubborn() if envelope.type == "stubborn" else b""

    await engine.subscribe([1], handler)
    link.deliver("stubborn")
    link.deliver("next")
    await asyncio.sleep(5.02)
    assert isinstance(link.answer_to("stubborn"), HandlerTimeoutError)
    await asyncio.sleep(100)
    assert started == ["stubborn"]
    assert counts(engine) == (1, 0, 1)
    stubborn.let_go.set()
    await ticks()
    assert started == ["stubborn", "next"]
    assert link.answer_to("next") == b""
    assert link.answer_to("stubborn") is not None  # and only once


async def test_a_handler_that_times_out_while_it_has_lent_its_slot_leaves_cleanly(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop
) -> None:
    engine = await open_engine(handler_timeout=2)
    await engine.subscribe([1], Asker(engine))
    link.deliver("a", b"3")
    await asyncio.sleep(2.02)
    assert isinstance(link.answer_to("a"), HandlerTimeoutError)
    assert leftovers(engine) == {}
    for sent in link.sent:
        link.answer(sent)
    assert engine.counters.late_replies == 3


async def test_a_result_in_the_tick_of_the_deadline_gives_one_answer(serve: Serve, worker: Worker) -> None:
    engine, link = await serve(handler_timeout=5)
    link.deliver("a")
    await ticks()
    (delivery,) = engine.dispatcher.running()
    worker.result_of("a").set_result(b"done")
    delivery.expire()
    await ticks()
    assert isinstance(link.answer_to("a"), HandlerTimeoutError)
    assert leftovers(engine) == {}


async def test_a_deadline_after_the_result_changes_nothing(serve: Serve, worker: Worker) -> None:
    engine, link = await serve()
    link.deliver("a")
    await ticks()
    (delivery,) = engine.dispatcher.running()
    worker.result_of("a").set_result(b"done")
    while link.answer_to("a") is None:  # noqa: ASYNC110 -- this very tick matters
        await asyncio.sleep(0)
    delivery.expire()  # the wheel had taken it out before
    await ticks()
    assert link.answer_to("a") == b"done"
    assert engine.counters.handler_timeouts == 0


async def test_a_deadline_before_the_task_is_known_is_answered(serve: Serve, worker: Worker) -> None:
    """With eager tasks a handler takes its first step before it has a task."""
    engine, link = await serve()
    link.deliver("a")
    await ticks()
    (delivery,) = engine.dispatcher.running()
    delivery.task = None
    delivery.expire()
    assert isinstance(link.answer_to("a"), HandlerTimeoutError)
    await worker.finish("a")
    assert leftovers(engine) == {}


async def test_a_notify_that_times_out_is_counted_and_not_answered(
    serve: Serve, worker: Worker, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    engine, link = await serve(handler_timeout=5)
    link.deliver("a", oneway=True)
    await asyncio.sleep(6)
    assert link.replies == []
    assert (engine.counters.handler_timeouts, engine.counters.notify_failures) == (1, 1)
    assert "HandlerTimeoutError" in caplog.text


async def test_what_expires_in_the_queue_is_refused_then_and_never_starts(
    serve: Serve, worker: Worker, clock: VirtualLoop
) -> None:
    engine, link = await serve(max_concurrent=1)
    link.deliver("running")
    link.deliver("outer", ttl_ms=1000)
    link.deliver("nested", ttl_ms=2000, depth=1)
    link.deliver("patient")
    await asyncio.sleep(0.99)
    assert link.answer_to("outer") is None
    await asyncio.sleep(0.03)
    error = link.answer_to("outer")
    assert isinstance(error, EnvelopeExpiredError)
    assert (error.shard, error.ttl, error.maybe_executed) == (1, 1.0, False)
    await asyncio.sleep(1)
    assert isinstance(link.answer_to("nested"), EnvelopeExpiredError)
    await worker.finish("running", "patient")
    assert worker.started == ["running", "patient"]
    assert engine.counters.refused.total() == 2


async def test_what_has_expired_never_starts_even_if_the_slot_is_free_before_the_wheel_turns(
    serve: Serve, worker: Worker, clock: VirtualLoop
) -> None:
    """The wheel is up to 10 ms late: the start looks at the clock."""
    _, link = await serve(max_concurrent=1)
    link.deliver("running")
    await ticks()
    for type_, depth in (("outer", 0), ("nested", 1)):
        link.deliver(type_, ttl_ms=1004, depth=depth)
    link.deliver("patient")
    worker.result_of("running").set_result(b"")
    clock.jump(1.006)
    await worker.finish("patient")
    assert worker.started == ["running", "patient"]
    for to in ("outer", "nested"):
        assert isinstance(link.answer_to(to), EnvelopeExpiredError)


async def test_a_notify_that_expires_is_counted_and_not_answered(
    serve: Serve, worker: Worker, clock: VirtualLoop
) -> None:
    engine, link = await serve(max_concurrent=1)
    link.deliver("running")
    link.deliver("late", oneway=True, ttl_ms=1000)
    await asyncio.sleep(2)
    await worker.finish("running")
    assert worker.started == ["running"]
    assert link.answer_to("late") is None
    assert engine.counters.notify_failures == 1


async def test_the_caller_may_give_up_before_the_handler_does(open_engine: OpenEngine, clock: VirtualLoop) -> None:
    hub = Hub()
    server, client = await open_engine(HubLink(hub)), await open_engine(HubLink(hub))
    worker = Worker()
    await server.subscribe([1], worker)
    with pytest.raises(ClstrError) as caught:
        await client.request(message(), timeout=3)
    assert isinstance(caught.value, (RequestTimeoutError, HandlerTimeoutError))
    assert caught.value.maybe_executed
    await asyncio.sleep(0.1)
    assert worker.cancelled == ["t"]  # its TTL was the caller's patience


async def test_refused_waiting_messages_do_not_keep_those_who_settle(
    open_engine: OpenEngine, link: FakeLink, stubborn: Stubborn, clock: VirtualLoop
) -> None:
    """Somebody who waits for a subscription's messages is told when they are refused by somebody else."""
    engine = await open_engine(max_concurrent=1)
    await engine.subscribe([2], stubborn)
    other = await engine.subscribe([1], echo)
    link.deliver("stubborn", shard=2)
    link.deliver("waits")
    await ticks()
    closing = asyncio.ensure_future(other.aclose())
    await ticks()
    engine.dispatcher.refuse_waiting(lambda _: True, lambda each: DrainingError(each.envelope.shard))
    await ticks()
    assert closing.done()
    assert isinstance(link.answer_to("waits"), DrainingError)
    stubborn.let_go.set()
    await closing


async def test_a_task_factory_that_fails_costs_a_message_but_no_slot(engine: Engine, link: FakeLink) -> None:
    def refuse_to_make(_loop: object, _coro: object, **_options: object) -> asyncio.Task[Any]:  # Any: as in asyncio
        raise RuntimeError("no tasks today")

    await engine.subscribe([1], echo)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(refuse_to_make)
    link.deliver("unlucky")
    loop.set_task_factory(None)
    link.deliver("lucky", b"x")
    await ticks()
    error = link.answer_to("unlucky")
    assert isinstance(error, HandlerError)
    assert (error.error_type, error.error_message) == ("RuntimeError", "no tasks today")
    assert link.answer_to("lucky") == b"x"
    assert engine.dispatcher.active == 0


async def test_a_message_knows_what_it_ends_with_when_its_time_is_over(open_engine: OpenEngine) -> None:
    seen: list[HandlerTimeoutError | None] = []
    ended = asyncio.Event()

    async def handler(envelope: Envelope) -> bytes:
        seen.append(own().timeout_error())
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(own().timeout_error())
            ended.set()
        return b""

    engine = await open_engine(handler_timeout=0.02)
    await engine.subscribe([1], handler)
    linked(engine).deliver("a")
    await asyncio.wait_for(ended.wait(), 5)
    assert seen[0] is None
    assert isinstance(seen[1], HandlerTimeoutError)
    assert seen[1].shard == 1
    assert seen[1].timeout == pytest.approx(0.02)


# Messages that wait for their turn at a key.


@pytest.fixture
async def turns(open_engine: OpenEngine, link: FakeLink) -> tuple[Engine, asyncio.Lock, list[str]]:
    """An engine with two slots, whose messages called ``hot`` park until the lock is free."""
    engine = await open_engine(max_concurrent=2, max_queue=100)
    hot, started = asyncio.Lock(), list[str]()

    async def handler(envelope: Envelope) -> bytes:
        started.append(envelope.type)
        if envelope.type != "hot":
            return b"cold"
        own().park()
        try:
            async with hot:
                return b"hot"
        finally:
            own().unpark()

    await engine.subscribe([1], handler)
    return engine, hot, started


async def test_parked_messages_keep_others_from_nothing(
    turns: tuple[Engine, asyncio.Lock, list[str]], link: FakeLink
) -> None:
    """Far more of them than may await requests at once: those count as running, since they ask for something."""
    engine, hot, started = turns
    await hot.acquire()
    many = 10 * (2 + SPARE)
    for _ in range(many):
        link.deliver("hot")
        await ticks(3)
    assert counts(engine) == (0, many, 0)
    link.deliver("cold")
    await ticks()
    assert link.answer_to("cold") == b"cold"
    hot.release()
    await ticks(5 * many)
    assert started == ["hot"] * many + ["cold"]
    assert leftovers(engine) == {}


async def test_a_message_that_is_parked_twice_counts_again_after_the_second_unpark(
    engine: Engine, link: FakeLink
) -> None:
    seen: list[tuple[int, tuple[int, int, int]]] = []

    async def handler(_: Envelope) -> bytes:
        for step in (own().park, own().park, own().unpark, own().unpark):
            step()
            seen.append((engine.dispatcher._outer_running, counts(engine)))
        return b""

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    parked = (0, (0, 1, 0))
    assert seen == [parked, parked, parked, (1, (1, 0, 0))]
    assert engine.dispatcher._outer_running == 0


@pytest.mark.parametrize("depth", [0, 1])
async def test_a_message_that_ends_while_parked_leaves_every_count(engine: Engine, link: FakeLink, depth: int) -> None:
    """A task that it left behind waits for the turn: its end undoes nothing that the message's end undid."""
    left: list[asyncio.Task[None]] = []
    let_go = asyncio.Event()

    async def wait_for_turn() -> None:
        delivery = own()
        delivery.park()
        await let_go.wait()
        delivery.unpark()

    async def handler(_: Envelope) -> bytes:
        left.append(asyncio.create_task(wait_for_turn()))
        await ticks(3)
        return b""

    await engine.subscribe([1], handler)
    link.deliver("a", depth=depth)
    await ticks()
    assert link.answer_to("a") == b""
    for _ in range(2):  # before its task gives the turn up, and after
        assert (engine.dispatcher._outer_running, counts(engine)) == (0, (0, 0, 0))
        let_go.set()
        await asyncio.wait(left)


async def test_what_measures_a_handler_is_told_of_its_waits_for_a_turn_and_when_it_was_read(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    turns, told = Turns(), list[str]()

    class Meter:
        def pause(self) -> None:
            told.append("pause")

        def resume(self) -> None:
            told.append("resume")

    async def handler(_: Envelope) -> bytes:
        assert own().received == 1000.0
        own().meter = Meter()
        told.append("first")
        await turns.take()
        told.append("turn")
        await asyncio.sleep(1)
        turns.end()
        return b""

    await engine.subscribe([1], handler)
    assert clock.time() == 1000.0
    link.deliver("a")
    link.deliver("b")
    await asyncio.sleep(3)
    assert told == ["first", "turn", "first", "pause", "resume", "turn"]


async def test_in_another_thread_there_is_no_slot_to_park(engine: Engine, link: FakeLink) -> None:
    async def park() -> None:
        own().park()
        own().unpark()

    async def handler(_: Envelope) -> bytes:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(asyncio.run, park()))
        thread.start()
        thread.join()
        assert counts(engine) == (1, 0, 0)
        return b"done"

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    assert link.answer_to("a") == b"done"


@pytest.fixture
async def lazy() -> None:
    """Let no task begin where it is made, as before Python 3.12."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, work, **options: asyncio.Task(work, loop=loop, **options))


@pytest.mark.usefixtures("lazy")
async def test_what_drains_before_a_handlers_first_step_is_refused(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    """It has a task and a slot, but it certainly did not run."""
    await engine.subscribe([1], worker)
    link.deliver("t")
    assert engine.dispatcher.active == 1
    assert engine.dispatcher.refuse_waiting(lambda _: True, lambda each: DrainingError(each.envelope.shard)) == 1
    await ticks()
    error = link.answer_to("t")
    assert isinstance(error, DrainingError)
    assert not error.maybe_executed
    assert worker.started == []
    assert engine.dispatcher.active == 0


@pytest.mark.usefixtures("lazy")
async def test_what_expires_before_a_handlers_first_step_is_refused(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    """The loop was busy between the creation of the task and its first step."""
    await engine.subscribe([1], worker)
    link.deliver("t", ttl_ms=50)
    [delivery] = engine.dispatcher.running()
    delivery.expire()
    await ticks()
    error = link.answer_to("t")
    assert isinstance(error, EnvelopeExpiredError)
    assert not error.maybe_executed
    assert worker.started == []


@pytest.mark.usefixtures("lazy")
@pytest.mark.parametrize("oneway", [False, True])
async def test_a_message_whose_time_is_over_at_its_first_step_never_starts(
    engine: Engine, link: FakeLink, worker: Worker, clock: VirtualLoop, *, oneway: bool
) -> None:
    """Another callback blocks the loop after the task was created; the timer wheel turns only after the first step."""
    await engine.subscribe([1], worker)
    link.deliver("late", ttl_ms=50, oneway=oneway)
    link.deliver("patient", ttl_ms=5000)
    clock.jump(0.06)
    await ticks()
    assert worker.started == ["patient"]
    assert engine.counters.refused.total() == 1
    error = link.answer_to("late")
    if oneway:
        assert (error, engine.counters.notify_failures) == (None, 1)
    else:
        assert isinstance(error, EnvelopeExpiredError)
        assert (error.ttl, error.maybe_executed) == (0.05, False)
    await worker.finish("patient")


async def test_handlers_that_block_the_loop_one_after_the_other_start_nothing_that_expired_meanwhile(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop
) -> None:
    """With eager tasks each blocks inside of the loop that starts those that wait: it must look at the clock again."""
    engine = await open_engine(max_concurrent=1)
    started: list[str] = []
    let_go = asyncio.Event()

    async def handler(envelope: Envelope) -> bytes:
        started.append(envelope.type)
        if envelope.type == "first":
            await let_go.wait()
        clock.jump(1)
        return b""

    await engine.subscribe([1], handler)
    link.deliver("first")
    await ticks()
    for number in range(3):
        link.deliver(f"waits {number}", ttl_ms=2500)
    let_go.set()
    await ticks()
    assert started == ["first", "waits 0", "waits 1"]
    assert isinstance(link.answer_to("waits 2"), EnvelopeExpiredError)


async def test_a_message_whose_time_is_over_when_its_turn_comes_never_starts(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    """The message before it blocks the loop in its last step."""
    turns, handled = Turns(), list[str]()
    let_go = asyncio.Event()

    async def handler(envelope: Envelope) -> bytes:
        assert await turns.take()
        try:
            handled.append(envelope.type)
            if envelope.type == "blocks":
                await let_go.wait()
                clock.jump(1)
        finally:
            turns.end()
        return b""

    await engine.subscribe([1], handler)
    link.deliver("blocks")
    link.deliver("late", ttl_ms=500)
    link.deliver("patient")
    await ticks()
    let_go.set()
    await ticks()
    assert handled == ["blocks", "patient"]
    error = link.answer_to("late")
    assert isinstance(error, EnvelopeExpiredError)
    assert not error.maybe_executed
    assert link.answer_to("patient") == b""
    assert leftovers(engine) == {}


# Waiting for a turn at a key is not running.


@pytest.fixture
def wait_for_turn(open_engine: OpenEngine) -> Callable[..., Awaitable[tuple[Engine, list[str]]]]:
    """Open an engine whose handlers wait for a turn that never comes, and say when they are cancelled."""

    async def open_(*, asks: bool = False, **limits: Any) -> tuple[Engine, list[str]]:  # Any: the fields of Limits
        engine = await open_engine(**limits)
        cancelled: list[str] = []

        async def handler(envelope: Envelope) -> bytes:
            question = asyncio.ensure_future(engine.request(message(shard=2))) if asks else None
            await asyncio.sleep(0)
            own().park()
            try:
                await asyncio.Event().wait()
                return b""
            except asyncio.CancelledError:
                cancelled.append(envelope.type)
                raise
            finally:
                own().unpark()
                if question is not None:
                    question.cancel()

        await engine.subscribe([1], handler)
        return engine, cancelled

    return open_


WaitForTurn = Callable[..., Awaitable[tuple[Engine, list[str]]]]


async def test_a_ttl_that_ends_while_a_message_waits_for_its_turn_expires_it(
    wait_for_turn: WaitForTurn, link: FakeLink, clock: VirtualLoop
) -> None:
    engine, cancelled = await wait_for_turn()
    link.deliver("a", ttl_ms=1000)
    await asyncio.sleep(1.1)
    error = link.answer_to("a")
    assert isinstance(error, EnvelopeExpiredError)
    assert (error.ttl, error.maybe_executed) == (1.0, False)
    assert cancelled == ["a"]
    assert (engine.counters.refused.total(), engine.counters.handler_timeouts) == (1, 0)
    assert leftovers(engine) == {}


@pytest.mark.parametrize("ttl_ms", [0, 60_000])
async def test_a_message_that_waits_for_its_turn_as_long_as_a_handler_may_take_is_too_much(
    wait_for_turn: WaitForTurn, link: FakeLink, clock: VirtualLoop, ttl_ms: int
) -> None:
    engine, cancelled = await wait_for_turn(handler_timeout=0.5)
    link.deliver("a", ttl_ms=ttl_ms)
    await asyncio.sleep(0.6)
    error = link.answer_to("a")
    assert isinstance(error, OverloadedError)
    assert (error.limit, error.bound, error.maybe_executed) == ("handler_timeout", 0.5, False)
    assert cancelled == ["a"]
    assert (engine.counters.refused.total(), engine.counters.handler_timeouts) == (1, 0)


async def test_what_waits_for_its_turn_when_a_subscription_is_drained_is_refused(
    wait_for_turn: WaitForTurn, link: FakeLink, clock: VirtualLoop
) -> None:
    engine, cancelled = await wait_for_turn(drain_timeout=1)
    link.deliver("a")
    await ticks()
    await engine.release(engine.dispatcher.running()[0].subscription, None)
    error = link.answer_to("a")
    assert isinstance(error, DrainingError)
    assert not error.maybe_executed
    await ticks()
    assert cancelled == ["a"]
    assert leftovers(engine) == {}


async def test_what_waits_for_its_turn_when_the_transport_closes_is_refused_and_not_cancelled(
    wait_for_turn: WaitForTurn, link: FakeLink, clock: VirtualLoop
) -> None:
    engine, cancelled = await wait_for_turn(drain_timeout=1)
    link.deliver("a")
    await ticks()
    report = await engine.aclose()
    assert isinstance(link.answer_to("a"), DrainingError)
    assert (report.refused, report.cancelled, report.abandoned) == (1, 0, ())
    assert cancelled == ["a"]
    assert engine.counters.refused.total() == 1


async def test_a_handler_that_asks_somebody_beside_its_wait_for_a_turn_has_run(
    wait_for_turn: WaitForTurn, link: FakeLink, clock: VirtualLoop
) -> None:
    engine, _ = await wait_for_turn(asks=True)
    link.deliver("a", ttl_ms=1000)
    await ticks()
    assert engine.dispatcher.running()[0].has_run
    assert engine.dispatcher.refuse_waiting(lambda _: True, lambda each: DrainingError(each.envelope.shard)) == 0
    await asyncio.sleep(1.1)
    error = link.answer_to("a")
    assert isinstance(error, HandlerTimeoutError)
    assert error.maybe_executed


async def test_what_was_refused_and_has_not_ended_yet_is_not_refused_again(
    wait_for_turn: WaitForTurn, link: FakeLink
) -> None:
    engine, _ = await wait_for_turn()
    link.deliver("a")
    await ticks()
    assert not engine.dispatcher.running()[0].has_run
    counted = [
        engine.dispatcher.refuse_waiting(lambda _: True, lambda each: DrainingError(each.envelope.shard))
        for _ in range(2)
    ]
    assert (counted, engine.counters.refused.total()) == ([1, 0], 1)
    assert engine.dispatcher.cancel_running(lambda _: True) == 0
    await ticks()


async def test_what_has_ended_leaves_nothing_to_the_garbage_collector(engine: Engine, link: FakeLink) -> None:
    """A task, its context and its delivery know each other."""
    await engine.subscribe([1], echo)
    link.deliver("warm")
    await ticks()
    gc.collect()
    gc.disable()
    try:
        for number in range(10):
            link.deliver(f"m{number}")
        await ticks()
        assert len(link.replies) == 11
        assert gc.collect() < 10
    finally:
        gc.enable()


async def test_a_drain_does_not_look_at_all_messages_at_each_end_of_one(
    open_engine: OpenEngine, link: FakeLink
) -> None:
    gates: list[asyncio.Event] = []

    async def wait(_: Envelope) -> bytes:
        gates.append(asyncio.Event())
        await gates[-1].wait()
        return b""

    engine = await open_engine(max_concurrent=101)
    await engine.subscribe([1, 2], wait)
    for number in range(100):
        link.deliver(f"other {number}")
    link.deliver("concerned", shard=2)
    await ticks()
    looks = 0

    def selects(delivery: Delivery) -> bool:
        nonlocal looks
        looks += 1
        return delivery.envelope.shard == 2

    settling = asyncio.ensure_future(engine.dispatcher.settle(selects, math.inf))
    await ticks()
    for gate in gates:
        assert not settling.done()
        gate.set()
        await ticks()
    assert await settling
    assert looks <= 101 + 2 * 100  # all of them once, and the one that is concerned when another ends: not 5,000
