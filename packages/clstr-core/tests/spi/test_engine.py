"""Opening and closing a transport (T14), one loop and one process, and what only the whole shows."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import weakref
from collections.abc import Awaitable, Callable

import pytest

from clstr._context import current
from clstr._limits import Limits
from clstr._messages.envelope import Envelope
from clstr.abc import CloseReport, Transport
from clstr.errors import (
    AuthenticationError,
    ClstrError,
    ConnectionLostError,
    DrainingError,
    HandlerTimeoutError,
    NoShardSubscriberError,
    NotOwnerError,
    PayloadTooLargeError,
    TransportClosedError,
    TransportUnavailableError,
)
from clstr.spi._bounded import _unfinished
from clstr.spi._engine import Engine
from clstr.spi._links import forks as _forks
from spi.fakes import (
    FakeLink,
    Hub,
    HubLink,
    OpenEngine,
    Stubborn,
    Worker,
    armed_timers,
    echo,
    failing,
    hang,
    leftovers,
    message,
    ticks,
)
from spi.virtual_time import START, VirtualLoop

MOST = 2.0  # seconds beyond drain_timeout that aclose may take


@pytest.fixture
def worker() -> Worker:
    return Worker()


# Opening.


async def test_a_codec_must_be_known(link: FakeLink) -> None:
    with pytest.raises(ValueError, match="codec must be one of json, msgpack, not 'pickle'"):
        Engine(link, codec="pickle")


async def test_an_engine_is_a_transport_with_default_limits(link: FakeLink) -> None:
    engine = Engine(link)
    assert isinstance(engine, Transport)
    assert engine.limits == Limits()
    await engine.open()
    assert engine.max_payload_bytes == 1024 * 1024
    await engine.aclose()


@pytest.mark.parametrize(("codec", "least", "most"), [("json", 700_000, 786_432), ("msgpack", 940_000, 1_048_576)])
async def test_the_payload_limit_leaves_room_for_the_envelope_and_the_encoding(
    codec: str, least: int, most: int
) -> None:
    engine = await Engine(FakeLink(max_message_bytes=1024 * 1024), codec=codec).open()
    assert least <= engine.max_payload_bytes <= most
    await engine.aclose()


async def test_a_payload_of_the_limit_fits_what_the_broker_carries(open_engine: OpenEngine) -> None:
    link = FakeLink(max_message_bytes=64 * 1024)
    engine = await open_engine(link)
    request = asyncio.ensure_future(engine.request(message(data=bytes(engine.max_payload_bytes))))
    await ticks()
    link.answer(link.sent[0])
    await request


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_the_payload_limit_follows_what_the_broker_carries(open_engine: OpenEngine, codec: str) -> None:
    """After a reconnection it may be less or more; the option still holds."""
    link = FakeLink(max_message_bytes=1024 * 1024)
    link.size_setting = "the broker's own"
    engine = await open_engine(link, codec=codec, max_payload_bytes=500_000)
    assert engine.max_payload_bytes == 500_000
    link.max_message_bytes = 100_000
    fewer = engine.max_payload_bytes
    assert 50_000 <= fewer < 100_000
    with pytest.raises(
        PayloadTooLargeError, match=f"the limit is {fewer}: send less, or raise the broker's own"
    ) as caught:
        await engine.request(message(data=bytes(fewer + 1)))
    assert caught.value.max_bytes == fewer
    request = asyncio.ensure_future(engine.request(message(data=bytes(fewer))))
    await ticks()
    link.answer(link.sent[0])
    await request
    link.max_message_bytes = None
    assert engine.max_payload_bytes == 500_000
    with pytest.raises(PayloadTooLargeError, match="the limit is 500000: send less, or raise max_payload_bytes"):
        await engine.request(message(data=bytes(500_001)))


@pytest.mark.parametrize("close_hangs", [False, True])
async def test_a_link_that_cannot_be_opened_is_closed(link: FakeLink, clock: VirtualLoop, close_hangs: bool) -> None:
    link.script["open"] = failing(AuthenticationError("bad password"))
    if close_hangs:
        link.script["aclose"] = hang
    engine = Engine(link)
    with pytest.raises(AuthenticationError):
        await engine.open()
    assert link.calls == [("open", ()), ("aclose", ())]
    assert clock.time() <= START + MOST


async def test_what_the_engine_and_its_link_have_counted(
    open_engine: OpenEngine, link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "stats", lambda: {"unsent_bytes": 7})
    engine = await open_engine()
    link.sink.garbage("noise")
    link.sink.request(3, b"\x80", None)
    before = engine.stats()
    assert (before.received, before.reconnects, before.is_up, dict(before.link)) == (1, 0, True, {"unsent_bytes": 7})
    link.sink.down(OSError("cut"))
    link.sink.up()
    after = engine.stats()
    assert (after.reconnects, after.is_up, before.reconnects) == (1, True, 0)
    assert before.garbage == 2
    after.refused["x"] = 1  # type: ignore[index]  # a copy all the same
    assert "x" not in engine.stats().refused


async def test_a_link_that_goes_down_while_it_opens_is_down(open_engine: OpenEngine, link: FakeLink) -> None:
    async def go_down() -> None:
        link.sink.down(OSError("reset"))

    link.script["open"] = go_down
    engine = await open_engine()
    assert not engine.state.is_up
    request = asyncio.ensure_future(engine.request(message()))
    await ticks()
    assert link.sent == []
    link.sink.up()
    await ticks()
    link.answer(link.sent[0], b"reply")
    assert await request == b"reply"


async def test_opening_can_be_cancelled(link: FakeLink) -> None:
    link.script["open"] = hang
    opening = asyncio.ensure_future(Engine(link).open())
    await ticks()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert link.calls == [("open", ()), ("aclose", ())]


async def test_an_engine_that_was_opened_in_a_handler_handles_messages_of_its_own(
    engine: Engine, link: FakeLink, open_engine: OpenEngine
) -> None:
    """Its handlers must not believe that they act for the handler that opened it."""
    seen: list[object] = []
    inner_link = FakeLink()

    async def inner_handler(_: Envelope) -> bytes:
        inside = current()
        assert inside is not None
        seen.append(inside.envelope.type)
        return b""

    async def handler(_: Envelope) -> bytes:
        inner = await open_engine(inner_link)
        await inner.subscribe([1], inner_handler)
        return b""

    await engine.subscribe([1], handler)
    link.deliver("outer")
    await ticks()
    inner_link.deliver("inner")
    await ticks()
    assert seen == ["inner"]


# One loop, one process.


USES: dict[str, Callable[[Engine], Awaitable[object]]] = {
    "request": lambda engine: engine.request(message()),
    "notify": lambda engine: engine.notify(message()),
    "subscribe": lambda engine: engine.subscribe([1], echo),
    "subscribe_shard": lambda engine: engine.subscribe_shard(1, echo),
    "wait_closed": lambda engine: engine.wait_closed(),
    "aclose": lambda engine: engine.aclose(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_another_loop_is_refused_with_the_way_out(link: FakeLink, use: Callable[[Engine], Awaitable[object]]) -> None:
    async def open_here() -> Engine:
        return await Engine(link).open()

    async def use_there() -> None:
        with pytest.raises(RuntimeError, match="belongs to another event loop: connect again in this one"):
            await use(engine)

    here, there = VirtualLoop(), VirtualLoop()
    engine = here.run_until_complete(open_here())
    there.run_until_complete(use_there())
    assert link.calls == [("open", ())]
    here.run_until_complete(engine.aclose())
    for loop in (here, there):
        loop.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_forked_child_is_refused_with_the_way_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, use: Callable[[Engine], Awaitable[object]]
) -> None:
    monkeypatch.setattr(_forks, "count", _forks.count + 1)
    with pytest.raises(RuntimeError, match="before the process forked: connect again in the child"):
        await use(engine)
    monkeypatch.undo()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 warns of forks with threads
async def test_a_real_fork_is_noticed(engine: Engine, link: FakeLink) -> None:
    child = os.fork()
    if child == 0:  # no assertion here may escape into pytest
        try:
            engine.request(message()).send(None)
        except RuntimeError as error:
            os._exit(0 if "forked" in str(error) else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)  # noqa: ASYNC222 -- the child ends at once
    assert os.waitstatus_to_exitcode(status) == 0


# Closing when all is well.


async def test_closing_drops_drains_flushes_and_closes_in_this_order(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    await engine.subscribe([1, 2], worker)
    link.deliver("a")
    await ticks()
    closing = asyncio.ensure_future(engine.aclose())
    await ticks()
    assert link.calls[2:] == [("drop", (1, 2))]
    await worker.finish("a")
    assert await closing == CloseReport()
    assert link.calls[2:] == [("drop", (1, 2)), ("flush", ()), ("aclose", ())]
    assert link.answer_to("a") == b"done"
    assert leftovers(engine) == {}
    assert armed_timers() == []


async def test_queued_messages_are_handled_while_there_is_time(
    open_engine: OpenEngine, link: FakeLink, worker: Worker
) -> None:
    engine = await open_engine(max_concurrent=1)
    await engine.subscribe([1], worker)
    link.deliver("running")
    link.deliver("queued")
    await ticks()
    closing = asyncio.ensure_future(engine.aclose())
    await worker.finish("running")
    await worker.finish("queued")
    assert await closing == CloseReport()
    assert (link.answer_to("running"), link.answer_to("queued")) == (b"done", b"done")


async def test_late_arrivals_are_refused_as_draining(
    engine: Engine, link: FakeLink, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    await engine.subscribe([1], worker)
    link.deliver("early")
    await ticks()
    closing = asyncio.ensure_future(engine.aclose())
    await ticks()
    link.deliver("late")
    link.deliver("late notify", oneway=True)
    link.deliver("elsewhere", shard=2)
    error = link.answer_to("late")
    assert isinstance(error, DrainingError)
    assert (error.shard, error.maybe_executed) == (1, False)
    assert isinstance(link.answer_to("elsewhere"), NotOwnerError)
    assert link.answer_to("late notify") is None
    await worker.finish("early")
    await closing
    link.deliver("much later")
    assert isinstance(link.answer_to("much later"), DrainingError)
    assert worker.started == ["early"]


@pytest.mark.parametrize("name", ["request", "notify", "subscribe", "subscribe_shard"])
async def test_new_calls_fail_as_soon_as_closing_begins(
    engine: Engine, link: FakeLink, worker: Worker, name: str
) -> None:
    subscription = await engine.subscribe([1], worker)
    link.deliver("a")
    await ticks()
    closing = asyncio.ensure_future(engine.aclose())
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(TransportClosedError) as caught:
            await USES[name](engine)
        assert not caught.value.maybe_executed
        with pytest.raises(TransportClosedError):
            await subscription.add([2])
        await worker.finish(*worker.started)
        worker.started.clear()
        await closing
    assert link.sent == []


async def test_requests_of_draining_handlers_go_on(engine: Engine, link: FakeLink, worker: Worker) -> None:
    async def handler(envelope: Envelope) -> bytes:
        await worker(envelope)
        reply = await engine.request(message(shard=2))
        return reply + await engine.request(message(shard=2))

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    closing = asyncio.ensure_future(engine.aclose())
    await worker.finish("a")
    link.answer(link.sent[0], b"one")
    await ticks()
    link.answer(link.sent[1], b"two")
    assert await closing == CloseReport()
    assert link.answer_to("a") == b"onetwo"


async def test_requests_in_flight_from_outside_fail_when_the_drain_is_over(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    await engine.subscribe([1], worker)
    link.deliver("a")
    request = asyncio.ensure_future(engine.request(message(shard=2)))
    other = asyncio.ensure_future(engine.request(message(shard=2)))
    await ticks()
    closing = asyncio.ensure_future(engine.aclose())
    await ticks()
    link.answer(link.sent[0], b"reply")
    assert await request == b"reply"
    assert not other.done()
    await worker.finish("a")
    await closing
    with pytest.raises(TransportClosedError) as caught:
        await other
    assert caught.value.maybe_executed


async def test_closing_twice_and_from_several_tasks_gives_the_same_report(
    engine: Engine, link: FakeLink, worker: Worker, clock: VirtualLoop
) -> None:
    await engine.subscribe([1], worker)
    link.deliver("a")
    await ticks()
    reports = await asyncio.gather(*(engine.aclose() for _ in range(5)))
    assert reports == [CloseReport(cancelled=1)] * 5
    assert await engine.aclose() is reports[0]
    assert [name for name, _ in link.calls].count("aclose") == 1


async def test_closing_goes_on_when_its_caller_is_cancelled(engine: Engine, link: FakeLink, worker: Worker) -> None:
    await engine.subscribe([1], worker)
    link.deliver("a")
    await ticks()
    first, second = asyncio.ensure_future(engine.aclose()), asyncio.ensure_future(engine.aclose())
    await ticks()
    first.cancel()
    await ticks()
    assert first.cancelled()
    assert not second.done()
    await worker.finish("a")
    assert await second == CloseReport()
    assert link.calls[-1] == ("aclose", ())


async def test_a_close_that_the_program_cancels_releases_the_link_and_can_be_repeated(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    """As `asyncio.run` does with every task when it ends."""
    await engine.subscribe([1], worker)
    link.deliver("a")
    await ticks()
    closing = asyncio.ensure_future(engine.aclose())
    await ticks()
    assert engine._closing is not None
    engine._closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert link.calls[-2:] == [("flush", ()), ("aclose", ())]
    await worker.finish("a")
    assert isinstance(await engine.aclose(), CloseReport)


async def test_wait_closed_returns_when_closing_begins(engine: Engine, link: FakeLink, worker: Worker) -> None:
    await engine.subscribe([1], worker)
    link.deliver("a")
    waiting = asyncio.ensure_future(engine.wait_closed())
    await ticks()
    assert not waiting.done()
    closing = asyncio.ensure_future(engine.aclose())
    await waiting
    assert not closing.done()
    await worker.finish("a")
    await closing
    await engine.wait_closed()


async def test_wait_closed_raises_what_ended_the_link(engine: Engine, link: FakeLink) -> None:
    waiting = asyncio.ensure_future(engine.wait_closed())
    await ticks()
    link.sink.down(OSError("flaky"))
    await ticks()
    assert not waiting.done()
    link.sink.down(OSError("revoked"), fatal=True)
    with pytest.raises(TransportUnavailableError, match="revoked"):
        await waiting
    assert await engine.aclose() == CloseReport()


async def test_a_closed_engine_is_garbage(link: FakeLink) -> None:
    engine = await Engine(link).open()
    await engine.subscribe([1], echo)
    link.deliver("a")
    await engine.aclose()
    await ticks()
    reference = weakref.ref(engine)
    del engine, link.sink
    gc.collect()
    assert reference() is None


# Closing when it is not.


async def test_after_drain_timeout_handlers_are_cancelled_and_waiting_messages_refused(
    open_engine: OpenEngine, link: FakeLink, worker: Worker, clock: VirtualLoop
) -> None:
    engine = await open_engine(max_concurrent=2)
    await engine.subscribe([1], worker)
    for type_ in ("a", "b", "queued"):
        link.deliver(type_)
    await ticks()
    report = await engine.aclose()
    assert clock.time() == START + 10
    assert report == CloseReport(cancelled=2, refused=1)
    error = link.answer_to("a")
    assert isinstance(error, HandlerTimeoutError)
    assert error.timeout == pytest.approx(10)  # what it was really given
    assert isinstance(link.answer_to("queued"), DrainingError)
    assert sorted(worker.cancelled) == ["a", "b"]
    assert worker.started == ["a", "b"]


async def test_a_handler_that_cleans_up_in_time_is_not_abandoned(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    async def handler(_: Envelope) -> bytes:
        try:
            await hang()
        finally:
            await asyncio.sleep(0.5)
        return b""

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    assert await engine.aclose() == CloseReport(cancelled=1)
    assert clock.time() == START + 10.5


async def test_a_handler_that_ignores_cancellation_is_abandoned_and_named(
    engine: Engine, link: FakeLink, stubborn: Stubborn, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    await engine.subscribe([1, 2], stubborn)
    link.deliver("Save", b"secret", shard=2)
    link.deliver("Get", b"secret")
    await ticks()
    report = await engine.aclose()
    assert report.abandoned == ("shard 1, type 'Get'", "shard 2, type 'Save'")
    assert report.cancelled == 2
    assert clock.time() <= START + 10 + MOST
    assert "these handlers ignore cancellation: shard 1, type 'Get'; shard 2, type 'Save'" in caplog.text
    assert "secret" not in caplog.text
    assert link.calls[-1] == ("aclose", ())
    stubborn.let_go.set()
    await ticks()
    assert len(link.replies) == 2


async def test_an_abandoned_handler_can_no_longer_ask(
    engine: Engine, link: FakeLink, stubborn: Stubborn, clock: VirtualLoop
) -> None:
    asked: list[BaseException] = []

    async def handler(envelope: Envelope) -> bytes:
        await stubborn()
        try:
            return await engine.request(message(shard=2))
        except TransportClosedError as error:
            asked.append(error)
            raise

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    await engine.aclose()
    stubborn.let_go.set()
    await ticks()
    assert len(asked) == 1
    assert link.sent == []


async def test_answers_on_their_way_get_what_is_left_of_the_time_to_drain(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def send_slowly() -> None:
        await asyncio.sleep(6)

    engine = await open_engine(drain_timeout=10)
    link.script["flush"] = send_slowly
    await engine.aclose()
    assert clock.time() >= START + 6
    assert "flushing" not in caplog.text


METHODS = ("drop", "flush", "aclose")


@pytest.mark.parametrize("obeys", [True, False], ids=["obeys", "ignores cancellation"])
@pytest.mark.parametrize("methods", [*[(name,) for name in METHODS], METHODS], ids="-".join)
@pytest.mark.parametrize("drain_timeout", [0, 3, 10])
async def test_a_link_that_hangs_delays_closing_by_a_bounded_time(
    open_engine: OpenEngine,
    link: FakeLink,
    stubborn: Stubborn,
    clock: VirtualLoop,
    methods: tuple[str, ...],
    obeys: bool,
    drain_timeout: float,
) -> None:
    async def ignore_cancellation() -> None:
        await stubborn()

    engine = await open_engine(drain_timeout=drain_timeout)
    handling = Stubborn()
    await engine.subscribe([1], handling)
    link.deliver("a")
    await ticks()
    for name in methods:
        link.script[name] = hang if obeys else ignore_cancellation
    report = await engine.aclose()
    assert clock.time() <= START + drain_timeout + MOST
    assert report.abandoned == ("shard 1, type 'a'",)
    assert link.calls[-1] == ("aclose", ())
    assert armed_timers() == []
    handling.let_go.set()
    stubborn.let_go.set()
    await ticks()
    assert not _unfinished


@pytest.mark.parametrize("name", METHODS)
async def test_a_link_that_fails_to_close_is_logged_and_the_rest_goes_on(
    engine: Engine, link: FakeLink, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    await engine.subscribe([1], echo)
    link.script[name] = failing(OSError("broken pipe"))
    assert await engine.aclose() == CloseReport()
    assert [name for name, _ in link.calls[2:]] == ["drop", "flush", "aclose"]
    assert "broken pipe" in caplog.text


async def test_closing_while_a_subscription_is_under_way_ends_it(engine: Engine, link: FakeLink) -> None:
    link.script["hold"] = hang
    subscribing = asyncio.ensure_future(engine.subscribe([1], echo))
    waiting = asyncio.ensure_future(engine.subscribe([2], echo))
    await ticks()
    assert await engine.aclose() == CloseReport()
    for task in (subscribing, waiting):
        with pytest.raises(TransportClosedError):
            await task
    assert link.calls[1:] == [("hold", (1,)), ("drop", (1,)), ("flush", ()), ("aclose", ())]


async def test_closing_while_a_subscription_is_under_way_and_ignores_it_is_bounded(
    open_engine: OpenEngine, link: FakeLink, stubborn: Stubborn, clock: VirtualLoop
) -> None:
    async def ignore_cancellation() -> None:
        await stubborn()

    engine = await open_engine()
    link.script["hold"] = ignore_cancellation
    subscribing = asyncio.ensure_future(engine.subscribe([1], echo))
    await ticks()
    await engine.aclose()
    assert clock.time() <= START + 10 + MOST
    stubborn.let_go.set()
    with pytest.raises(TransportClosedError):
        await subscribing


async def test_closing_while_a_subscription_waits_for_the_link_ends_it(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    link.sink.down(OSError("reset"))
    subscribing = asyncio.ensure_future(engine.subscribe([1], echo))
    await ticks()
    await engine.aclose()
    with pytest.raises(TransportClosedError):
        await subscribing


async def test_closing_while_a_subscription_closes(engine: Engine, link: FakeLink, worker: Worker) -> None:
    subscription = await engine.subscribe([1, 2], worker)
    link.deliver("a")
    await ticks()
    both = asyncio.gather(subscription.aclose(), engine.aclose(), subscription.remove([2]))
    await ticks()
    await worker.finish("a")
    assert (await both)[1] == CloseReport()
    assert link.answer_to("a") == b"done"


async def test_a_subscription_that_closes_when_the_transport_gives_up_is_not_kept_waiting(
    open_engine: OpenEngine, link: FakeLink, worker: Worker, clock: VirtualLoop
) -> None:
    engine = await open_engine(max_concurrent=1)
    subscription = await engine.subscribe([1], worker)
    link.deliver("running")
    link.deliver("queued")
    await ticks()
    closing = asyncio.ensure_future(engine.aclose())
    await asyncio.sleep(5)
    await subscription.aclose()
    assert clock.time() <= START + 10.1
    await closing


async def test_the_link_may_be_down_when_the_transport_closes(engine: Engine, link: FakeLink, worker: Worker) -> None:
    await engine.subscribe([1], worker)
    link.deliver("a")
    request = asyncio.ensure_future(engine.request(message(shard=2)))
    await ticks()
    link.sink.down(OSError("reset"))
    closing = asyncio.ensure_future(engine.aclose())
    await worker.finish("a")
    assert await closing == CloseReport()
    with pytest.raises(ConnectionLostError):
        await request
    link.sink.up()
    link.sink.down(OSError("again"), fatal=True)
    with pytest.raises(TransportClosedError):
        await engine.request(message())


# Closing from inside.


async def test_a_handler_may_close_its_transport(engine: Engine, link: FakeLink) -> None:
    reports = []

    async def handler(_: Envelope) -> bytes:
        reports.append(await engine.aclose())
        return b"closed"

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    assert reports == [CloseReport()]
    assert link.answer_to("a") == b"closed"
    assert leftovers(engine) == {}
    assert armed_timers() == []


async def test_several_handlers_may_close_their_transport_at_once(engine: Engine, link: FakeLink) -> None:
    reports = []
    go_on = asyncio.Event()

    async def handler(envelope: Envelope) -> bytes:
        await ticks(5 if envelope.type == "early" else 1)
        if envelope.type == "late":
            await go_on.wait()
        reports.append(await engine.aclose())
        return b"closed"

    await engine.subscribe([1], handler)
    for type_ in ("a", "b", "late"):
        link.deliver(type_)
    await ticks()
    assert reports == []
    go_on.set()
    await ticks()
    assert reports == [CloseReport()] * 3
    assert leftovers(engine) == {}
    assert armed_timers() == []


async def test_a_child_task_of_a_handler_may_close_the_transport(engine: Engine, link: FakeLink) -> None:
    reports = []

    async def close() -> None:
        reports.append(await engine.aclose())

    async def handler(_: Envelope) -> bytes:
        await asyncio.gather(close(), asyncio.ensure_future(close()))
        return b"closed"

    await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    assert reports == [CloseReport()] * 2
    assert link.answer_to("a") == b"closed"


async def test_a_task_that_outlives_its_handler_closes_like_anybody_else(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    go_on = asyncio.Event()
    tasks: list[asyncio.Task[CloseReport]] = []

    async def close_later() -> CloseReport:
        await go_on.wait()
        return await engine.aclose()

    async def handler(envelope: Envelope) -> bytes:
        if envelope.type == "spawns":
            tasks.append(asyncio.ensure_future(close_later()))
            return b""
        return await worker(envelope)

    await engine.subscribe([1], handler)
    link.deliver("spawns")
    link.deliver("works")
    await ticks()
    go_on.set()
    await ticks()
    assert not tasks[0].done()
    await worker.finish("works")
    assert await tasks[0] == CloseReport()


async def test_a_handler_that_closes_waits_for_the_others(
    engine: Engine, link: FakeLink, worker: Worker, clock: VirtualLoop
) -> None:
    reports = []

    async def handler(envelope: Envelope) -> bytes:
        if envelope.type == "closes":
            reports.append(await engine.aclose())
            return b"closed"
        return await worker(envelope)

    await engine.subscribe([1], handler)
    link.deliver("works")
    link.deliver("closes")
    await ticks()
    assert reports == []
    await worker.finish("works")
    assert reports == [CloseReport()]
    assert link.answer_to("works") == b"done"


async def test_a_handler_that_closes_lends_its_slot_to_what_it_waits_for(
    open_engine: OpenEngine, link: FakeLink
) -> None:
    engine = await open_engine(max_concurrent=1)

    async def handler(envelope: Envelope) -> bytes:
        if envelope.type == "closes":
            await asyncio.sleep(0)
            assert await engine.aclose() == CloseReport()
        return envelope.type.encode()

    await engine.subscribe([1], handler)
    link.deliver("closes")
    link.deliver("queued")
    await ticks()
    assert link.replies == [("queued", b"queued"), ("closes", b"closes")]


async def test_a_handler_that_asks_one_that_closes_is_cancelled_in_bounded_time(
    open_engine: OpenEngine, clock: VirtualLoop
) -> None:
    hub = Hub()
    engine, client = await open_engine(HubLink(hub)), await open_engine(HubLink(hub))

    async def handler(envelope: Envelope) -> bytes:
        if envelope.shard == 2:
            await engine.aclose()
            return b"closed"
        return await engine.request(message(shard=2), timeout=100)

    await engine.subscribe([1, 2], handler)
    with pytest.raises(ClstrError) as caught:
        await client.request(message(), timeout=60)
    assert caught.value.maybe_executed
    assert clock.time() <= START + 10 + MOST


async def test_a_handler_that_has_closed_still_has_its_deadline(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop
) -> None:
    engine = await open_engine(handler_timeout=30)
    cancelled = []

    async def handler(_: Envelope) -> bytes:
        await engine.aclose()
        try:
            await hang()
        finally:
            cancelled.append(clock.time())
        return b""

    await engine.subscribe([1], handler)
    link.deliver("a")
    await asyncio.sleep(31)
    assert cancelled == [START + 30]
    assert armed_timers() == []


async def test_a_handler_of_another_transport_closes_this_one(
    open_engine: OpenEngine, link: FakeLink, engine: Engine
) -> None:
    other_link = FakeLink()
    other = await open_engine(other_link)
    reports = []

    async def handler(_: Envelope) -> bytes:
        reports.append(await engine.aclose())
        with pytest.raises(TransportClosedError):
            await engine.request(message())
        return b"closed"

    await other.subscribe([1], handler)
    other_link.deliver("a")
    await ticks()
    assert reports == [CloseReport()]
    assert (other.dispatcher.active, other.dispatcher.suspended) == (0, 0)


# Two peers.


async def test_two_peers_talk(open_engine: OpenEngine) -> None:
    hub = Hub()
    server, client = await open_engine(HubLink(hub)), await open_engine(HubLink(hub))
    handled = []

    async def handler(envelope: Envelope) -> bytes:
        handled.append(envelope.type)
        return envelope.data

    subscription = await server.subscribe([1], handler)
    assert await client.request(message(data=b"data")) == b"data"
    await client.notify(message(type="n"))
    await ticks()
    assert handled == ["t", "n"]
    await subscription.aclose()
    for call in (client.request, client.notify):
        with pytest.raises(NoShardSubscriberError):
            await call(message())


async def test_an_engine_may_ask_itself(open_engine: OpenEngine) -> None:
    engine = await open_engine(HubLink(Hub()))
    await engine.subscribe([1], echo)
    assert await engine.request(message(data=b"data")) == b"data"


async def test_nothing_is_logged_when_nothing_is_wrong(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "clstr")
    hub = Hub()
    server, client = await open_engine(HubLink(hub)), await open_engine(HubLink(hub))
    await server.subscribe([1], echo)
    await client.request(message(data=b"secret", headers={"a": "secret"}))
    await client.aclose()
    await server.aclose()
    assert [record for record in caplog.records if record.name.startswith("clstr")] == []


async def test_a_logger_may_be_given(link: FakeLink, caplog: pytest.LogCaptureFixture) -> None:
    engine = await Engine(link, logger=logging.getLogger("mine")).open()
    link.sink.down(OSError("reset"))
    assert [record.name for record in caplog.records] == ["mine"]
    await engine.aclose()
