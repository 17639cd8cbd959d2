"""Who holds what, and the gate (T2, T4, T5)."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from clstr._context import current
from clstr._messages.envelope import Envelope
from clstr.abc import ReleaseReport, Subscription
from clstr.errors import (
    AccessDeniedError,
    DrainingError,
    HandlerTimeoutError,
    NotOwnerError,
    TransportClosedError,
    TransportUnavailableError,
)
from clstr.spi._engine import MAX_NAMED, Engine
from spi.fakes import (
    FakeLink,
    OpenEngine,
    Stubborn,
    Worker,
    echo,
    failing,
    hang,
    message,
    ticks,
)
from spi.virtual_time import START, VirtualLoop


@pytest.fixture
def worker() -> Worker:
    return Worker()


class Turnstile:
    """A link's method that waits until the test lets it pass."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self) -> None:
        await self.open.wait()


def named(name: str, log: list[str]) -> Worker:
    """Make a handler that logs its name."""

    class Named(Worker):
        async def __call__(self, envelope: Envelope) -> bytes:
            log.append(name)
            return name.encode()

    return Named()


# Holding.


async def test_the_link_holds_what_is_subscribed(engine: Engine, link: FakeLink) -> None:
    subscription = await engine.subscribe([3, 1, 2, 1], echo)
    assert link.calls == [("open", ()), ("hold", (1, 2, 3))]
    assert subscription.shards == {1, 2, 3}
    link.deliver("t", b"data", shard=3)
    await ticks()
    assert link.answer_to("t") == b"data"


async def test_a_subscription_grows_and_shrinks(engine: Engine, link: FakeLink) -> None:
    subscription = await engine.subscribe_shard(1, echo)
    await subscription.add(iter([1, 2, 3]))
    await subscription.remove([1, 7])
    assert subscription.shards == {2, 3}
    await subscription.add([])
    await subscription.aclose()
    await subscription.aclose()
    assert subscription.shards == frozenset()
    assert link.calls[1:] == [("hold", (1,)), ("hold", (2, 3)), ("drop", (1,)), ("drop", (2, 3))]


async def test_the_link_sees_the_first_hold_and_the_last_drop(engine: Engine, link: FakeLink) -> None:
    one = await engine.subscribe([1, 2], echo)
    other = await engine.subscribe([2, 3], echo)
    await one.aclose()
    await other.remove([3])
    await other.aclose()
    assert link.calls[1:] == [("hold", (1, 2)), ("hold", (3,)), ("drop", (1,)), ("drop", (3,)), ("drop", (2,))]


async def test_several_holders_of_a_shard_take_turns(engine: Engine, link: FakeLink) -> None:
    log: list[str] = []
    subscriptions = [await engine.subscribe([1], named(name, log)) for name in "abc"]
    for index in range(6):
        link.deliver(str(index))
    await ticks()
    assert log == ["a", "b", "c", "a", "b", "c"]
    assert engine.counters.shared_shards == 6
    await subscriptions[1].aclose()
    for index in range(6, 9):
        link.deliver(str(index))
    await ticks()
    assert sorted(log[6:]) in (["a", "a", "c"], ["a", "c", "c"])
    assert len(link.replies) == 9


async def test_one_holder_counts_as_no_sharing(engine: Engine, link: FakeLink) -> None:
    await engine.subscribe([1], echo)
    link.deliver("t")
    assert engine.counters.shared_shards == 0
    await ticks()


@pytest.mark.parametrize("shards", [[-1], [2**32], [1, 2**64]])
async def test_a_shard_out_of_range_is_refused(engine: Engine, link: FakeLink, shards: list[int]) -> None:
    subscription = await engine.subscribe([1], echo)
    for call in (subscription.add, subscription.remove):
        with pytest.raises(ValueError, match="between 0 and 4294967295"):
            await call(shards)
    assert subscription.shards == {1}


@pytest.mark.parametrize("shards", [["1"], [1.0], [True], [None]])
async def test_a_shard_that_is_no_int_is_refused(engine: Engine, shards: list[int]) -> None:
    with pytest.raises(TypeError, match="must be an int"):
        await engine.subscribe(shards, echo)


async def test_a_handler_that_cannot_be_called_is_refused(engine: Engine, link: FakeLink) -> None:
    with pytest.raises(TypeError, match="handler must be an async function"):
        await engine.subscribe([1], b"handler")  # type: ignore[arg-type]  # the mistake in question
    assert link.calls == [("open", ())]


async def test_messages_that_come_before_the_confirmation_are_handled(engine: Engine, link: FakeLink) -> None:
    async def deliver_early() -> None:
        link.deliver("early", b"data")
        await ticks()

    link.script["hold"] = deliver_early
    await engine.subscribe([1], echo)
    assert link.answer_to("early") == b"data"


async def test_subscribing_waits_for_the_link(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    link.sink.down(OSError("reset"))
    subscribing = asyncio.ensure_future(engine.subscribe([1], echo))
    await asyncio.sleep(1)
    assert link.calls == [("open", ())]
    link.sink.up()
    assert (await subscribing).shards == {1}


async def test_subscribing_waits_reconnect_wait_at_most(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    link.sink.down(OSError("reset"))
    with pytest.raises(TransportUnavailableError):
        await engine.subscribe([1], echo)
    assert clock.time() == START + 2


# Failures of the link.


async def test_a_failed_hold_holds_nothing(engine: Engine, link: FakeLink) -> None:
    subscription = await engine.subscribe([1], echo)
    link.script["hold"] = failing(AccessDeniedError("shard 2 is not yours"))
    with pytest.raises(AccessDeniedError):
        await subscription.add([1, 2, 3])
    assert subscription.shards == {1}
    assert link.calls[-2:] == [("hold", (2, 3)), ("drop", (2, 3))]
    link.deliver("t", shard=2)
    assert isinstance(link.answer_to("t"), NotOwnerError)
    del link.script["hold"]
    await subscription.add([2])
    assert subscription.shards == {1, 2}


async def test_a_failed_hold_of_a_shard_that_another_holds_leaves_that_one_alone(
    engine: Engine, link: FakeLink
) -> None:
    await engine.subscribe([1], echo)
    link.script["hold"] = failing(AccessDeniedError("no"))
    with pytest.raises(AccessDeniedError):
        await engine.subscribe([1, 2], hang)  # type: ignore[arg-type]  # never called
    assert link.calls[-1] == ("drop", (2,))
    for index in range(3):
        link.deliver(str(index), b"data")
    await ticks()
    assert [answer for _, answer in link.replies] == [b"data"] * 3


async def test_a_cancelled_hold_holds_nothing(engine: Engine, link: FakeLink) -> None:
    link.script["hold"] = hang
    subscribing = asyncio.ensure_future(engine.subscribe([1], echo))
    await ticks()
    subscribing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await subscribing
    assert link.calls[-1] == ("drop", (1,))
    link.deliver("t")
    assert isinstance(link.answer_to("t"), NotOwnerError)
    del link.script["hold"]
    await engine.subscribe([1], echo)


async def test_a_failed_hold_whose_clean_up_fails_too_raises_what_hold_raised(
    engine: Engine, link: FakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    link.script["hold"] = failing(AccessDeniedError("no"))
    link.script["drop"] = failing(OSError("broken pipe"))
    with pytest.raises(AccessDeniedError):
        await engine.subscribe([1], echo)
    assert "broken pipe" in caplog.text


async def test_a_failed_hold_whose_clean_up_hangs_ends_all_the_same(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    link.script["hold"] = failing(AccessDeniedError("no"))
    link.script["drop"] = hang
    with pytest.raises(AccessDeniedError):
        await engine.subscribe([1], echo)
    assert clock.time() <= START + 10
    link.script.clear()
    await engine.subscribe([1], echo)


async def test_a_failed_drop_shuts_the_gate_and_waits_for_the_handlers(
    engine: Engine, link: FakeLink, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """`Link.drop` must not raise; whatever it does, nothing starts after ``aclose`` has returned."""
    subscription = await engine.subscribe([1], worker)
    link.deliver("a")
    await ticks()
    link.script["drop"] = failing(OSError("broken pipe"))
    closing = asyncio.ensure_future(subscription.aclose())
    await ticks()
    assert not closing.done()
    await worker.finish("a")
    await closing
    assert link.answer_to("a") == b"done"
    link.deliver("late")
    assert isinstance(link.answer_to("late"), NotOwnerError)
    assert "broken pipe" in caplog.text


async def test_a_drop_that_hangs_shuts_the_gate_within_drain_timeout(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    subscription = await engine.subscribe([1], echo)
    link.script["drop"] = hang
    await subscription.aclose()
    assert clock.time() <= START + 10
    assert subscription.shards == frozenset()
    link.deliver("late")
    assert isinstance(link.answer_to("late"), NotOwnerError)


async def test_a_drop_that_ignores_cancellation_shuts_the_gate_within_drain_timeout(
    engine: Engine, link: FakeLink, clock: VirtualLoop, stubborn: Stubborn
) -> None:
    subscription = await engine.subscribe([1], echo)

    async def ignore_cancellation() -> None:
        await stubborn()

    link.script["drop"] = ignore_cancellation
    await subscription.aclose()
    assert clock.time() <= START + 10
    link.deliver("late")
    assert isinstance(link.answer_to("late"), NotOwnerError)


async def test_a_link_that_is_busy_with_another_call_is_not_waited_for_beyond_drain_timeout(
    engine: Engine, link: FakeLink, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = await engine.subscribe([1], echo)
    link.script["hold"] = hang
    other = asyncio.ensure_future(engine.subscribe([2], echo))
    await ticks()
    await subscription.aclose()
    assert clock.time() == START + 10
    assert "too busy to let go" in caplog.text
    link.deliver("late")
    assert isinstance(link.answer_to("late"), NotOwnerError)
    await engine.aclose()
    with pytest.raises(TransportClosedError):
        await other


async def test_shards_that_were_let_go_of_while_they_were_acquired_are_not_held(
    engine: Engine, link: FakeLink, clock: VirtualLoop
) -> None:
    subscription = await engine.subscribe([1], echo)
    turnstile = Turnstile()
    link.script["hold"] = turnstile
    adding = asyncio.ensure_future(subscription.add([2]))
    await ticks()
    await subscription.remove([2])
    turnstile.open.set()
    with pytest.raises(TransportClosedError, match="let go of while"):
        await adding
    assert subscription.shards == held_by(link) == {1}


async def test_without_drain_timeout_the_link_still_has_a_moment_to_let_go(
    open_engine: OpenEngine, link: FakeLink, worker: Worker, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await open_engine(drain_timeout=0)
    done = []

    async def take_a_moment() -> None:
        await asyncio.sleep(0.1)
        done.append(True)

    link.script["drop"] = take_a_moment
    one, _ = await engine.subscribe([1], worker), await engine.subscribe([2], worker)
    link.deliver("running")
    await ticks()
    await one.aclose()
    assert clock.time() == START + 0.1
    report = await engine.aclose()
    assert done == [True, True]
    assert report.cancelled == 1
    assert [text.partition(" ")[0] for text in caplog.messages] == ["shards", "a"]
    assert "was cancelled after" in caplog.messages[1]


async def test_a_cancelled_aclose_lets_go_all_the_same(engine: Engine, link: FakeLink) -> None:
    """Cancelled while another call has the link's attention, it must not leave the link holding what nobody holds."""
    subscription = await engine.subscribe([1], echo)
    turnstile = Turnstile()
    link.script["hold"] = turnstile
    other = asyncio.ensure_future(engine.subscribe([2], echo))
    await ticks()
    closing = asyncio.ensure_future(subscription.aclose())
    await ticks()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    turnstile.open.set()
    await other
    await ticks()
    link.deliver("late")
    assert isinstance(link.answer_to("late"), NotOwnerError)
    assert held_by(link) == {2}
    await subscription.aclose()


async def test_a_cancelled_drop_can_be_repeated(engine: Engine, link: FakeLink, clock: VirtualLoop) -> None:
    subscription = await engine.subscribe([1], echo)
    link.script["drop"] = hang
    closing = asyncio.ensure_future(subscription.aclose())
    await ticks()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    del link.script["drop"]
    await subscription.aclose()
    link.deliver("late")
    assert isinstance(link.answer_to("late"), NotOwnerError)


async def test_hold_and_drop_of_one_shard_come_one_after_the_other(engine: Engine, link: FakeLink) -> None:
    running = 0

    async def alone() -> None:
        nonlocal running
        assert running == 0
        running += 1
        await ticks(5)
        running -= 1

    link.script["hold"] = link.script["drop"] = alone
    one = await engine.subscribe([1], echo)
    await asyncio.gather(one.remove([1]), engine.subscribe([1], echo), one.add([2]), one.remove([2]))
    assert running == 0


@pytest.mark.parametrize("seed", range(10))
async def test_after_any_changes_at_once_link_and_engine_agree(engine: Engine, link: FakeLink, seed: int) -> None:
    chance = random.Random(seed)

    async def dawdle() -> None:
        await ticks(chance.randrange(4))
        if chance.random() < 0.2:
            raise AccessDeniedError("no")

    async def dawdle_only() -> None:
        await ticks(chance.randrange(4))

    link.script["hold"], link.script["drop"] = dawdle, dawdle_only
    subscriptions: list[Subscription] = [await engine.subscribe([], echo) for _ in range(6)]
    tasks = []
    for _ in range(80):
        subscription = chance.choice(subscriptions)
        shards = chance.sample(range(5), 2)
        call = chance.choice(
            [subscription.add] * 5 + [subscription.remove] * 4 + [lambda _, each=subscription: each.aclose()]
        )
        tasks.append(asyncio.ensure_future(call(shards)))
        await ticks(chance.randrange(3))
        if chance.random() < 0.2:
            chance.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    expected = frozenset[int]().union(*(subscription.shards for subscription in subscriptions))
    assert held_by(link) == expected == set(engine.holders.shards)
    for shard in range(5):
        link.deliver(str(shard), shard=shard)
        assert isinstance(link.answer_to(str(shard)), NotOwnerError) == (shard not in expected)
    await ticks()


# The gate.


async def test_messages_that_arrive_while_closing_may_start_and_later_ones_do_not(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    turnstile = Turnstile()
    link.script["drop"] = turnstile
    subscription = await engine.subscribe([1], worker)
    closing = asyncio.ensure_future(subscription.aclose())
    await ticks()
    link.deliver("during")
    await ticks()
    assert worker.started == ["during"]
    turnstile.open.set()
    await ticks()
    assert not closing.done()
    link.deliver("after the gate")
    assert isinstance(link.answer_to("after the gate"), NotOwnerError)
    await worker.finish("during")
    await closing
    assert link.answer_to("during") == b"done"
    assert worker.started == ["during"]


async def test_closing_waits_for_queued_messages_too(open_engine: OpenEngine, link: FakeLink, worker: Worker) -> None:
    engine = await open_engine(max_concurrent=1)
    subscription = await engine.subscribe([1], worker)
    link.deliver("running")
    link.deliver("queued")
    await ticks()
    closing = asyncio.ensure_future(subscription.aclose())
    await worker.finish("running")
    assert worker.started == ["running", "queued"]
    assert not closing.done()
    await worker.finish("queued")
    await closing


async def test_after_drain_timeout_queued_messages_are_refused_and_running_ones_left(
    open_engine: OpenEngine, link: FakeLink, worker: Worker, clock: VirtualLoop
) -> None:
    engine = await open_engine(max_concurrent=1)
    subscription = await engine.subscribe([1], worker)
    for type_, depth in (("running", 0), ("queued", 0), ("nested", 1)):
        link.deliver(type_, depth=depth)
    await ticks()
    assert await subscription.aclose() == ReleaseReport(running=("shard 1, type 'running'",))
    assert clock.time() == START + 10
    for to in ("queued", "nested"):
        error = link.answer_to(to)
        assert isinstance(error, DrainingError)
        assert not error.maybe_executed
    assert worker.cancelled == []
    await worker.finish("running")
    assert link.answer_to("running") == b"done"
    assert worker.started == ["running"]


async def test_what_runs_after_the_drain_is_kept_from_the_shard_s_state_and_logged(
    engine: Engine, link: FakeLink, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = await engine.subscribe([1, 2], worker)
    for shard in (1, 2):
        link.deliver(str(shard), shard=shard)
    await ticks()
    messages = {each.envelope.shard: each for each in engine.dispatcher.running()}
    assert messages[1].holds()(1)
    assert await subscription.remove([1]) == ReleaseReport(running=("shard 1, type '1'",))
    assert (messages[1].is_revoked, messages[2].is_revoked) == (True, False)
    assert (messages[1].holds()(1), messages[2].holds()(2)) == (False, True)
    [record] = caplog.records
    assert record.getMessage() == (
        "shards are released, but 1 of their handlers still run after drain_timeout, 10 s: shard 1, type '1'"
    )
    await subscription.add([1])
    assert messages[1].is_revoked  # it came before, and another may have owned the shard since
    await worker.finish("1", "2")
    assert await subscription.aclose() == ReleaseReport()


async def test_of_many_handlers_that_still_run_the_log_names_some(
    engine: Engine, link: FakeLink, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = await engine.subscribe([1], worker)
    types = [f"t{number:02}" for number in range(MAX_NAMED + 1)]
    for type_ in types:
        link.deliver(type_)
    await ticks()
    report = await subscription.aclose()
    assert len(report.running) == MAX_NAMED + 1
    [text] = caplog.messages
    assert text.endswith("type 't09'; ...")
    await worker.finish(*types)


async def test_a_closing_transport_holds_nothing_for_periodic_work(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    await engine.subscribe([1], worker)
    link.deliver("a")
    await ticks()
    [message_] = engine.dispatcher.running()
    closing = asyncio.ensure_future(engine.aclose())
    await ticks()
    assert not message_.holds()(1)
    await worker.finish("a")
    await closing


async def test_a_handler_that_lets_go_does_not_wait_for_those_that_await_its_answer(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    async def handler(envelope: Envelope) -> bytes:
        if envelope.type == "outer":
            return await engine.request(message(shard=2))
        await subscription.aclose()
        return b"released"

    subscription = await engine.subscribe([1], handler)
    link.deliver("outer", headers={"x-clstr-key": "k"})
    await ticks()
    [asked] = link.sent
    link.deliver("inner", chain=asked.frame.chain)
    await ticks()
    assert link.answer_to("inner") == b"released"
    link.answer(asked, b"done")
    await ticks()
    assert link.answer_to("outer") == b"done"


async def test_removing_waits_only_for_its_own_shards_messages(engine: Engine, link: FakeLink, worker: Worker) -> None:
    subscription = await engine.subscribe([1, 2], worker)
    other = await engine.subscribe([3], worker)
    for shard in (1, 2, 3):
        link.deliver(str(shard), shard=shard)
    await ticks()
    removing = asyncio.ensure_future(subscription.remove([1]))
    closing = asyncio.ensure_future(other.aclose())
    await worker.finish("3")
    await closing
    assert not removing.done()
    await worker.finish("1")
    await removing
    await worker.finish("2")


async def test_a_second_aclose_waits_like_the_first(open_engine: OpenEngine, link: FakeLink, worker: Worker) -> None:
    """Called at once, or after the first was cancelled: when it returns nothing runs, and nothing starts."""
    engine = await open_engine(max_concurrent=1)
    subscription = await engine.subscribe([1], worker)
    link.deliver("running")
    link.deliver("queued")
    await ticks()
    first = asyncio.ensure_future(subscription.aclose())
    await ticks()
    second = asyncio.ensure_future(subscription.aclose())
    await ticks()
    first.cancel()
    await ticks()
    third = asyncio.ensure_future(subscription.aclose())
    await worker.finish("running")
    assert (second.done(), third.done()) == (False, False)
    await worker.finish("queued")
    await second
    await third


async def test_a_handler_may_let_go_of_its_own_shard(engine: Engine, link: FakeLink) -> None:
    async def handler(envelope: Envelope) -> bytes:
        await (subscription.aclose() if envelope.data else subscription.remove([1]))
        return b"released"

    for data in (b"", b"all"):
        subscription = await engine.subscribe([1, 2], handler)
        link.deliver("t" + data.decode(), data)
        await ticks()
        assert link.answer_to("t" + data.decode()) == b"released"
        await subscription.aclose()


async def test_a_child_task_of_a_handler_may_let_go_of_its_shard(engine: Engine, link: FakeLink) -> None:
    async def handler(_: Envelope) -> bytes:
        await asyncio.gather(subscription.aclose(), subscription.remove([1]))
        return b"released"

    subscription = await engine.subscribe([1], handler)
    link.deliver("t")
    await ticks()
    assert link.answer_to("t") == b"released"


async def test_two_handlers_that_let_go_at_once_do_not_wait_for_each_other(engine: Engine, link: FakeLink) -> None:
    both = asyncio.Barrier(2)

    async def handler(_: Envelope) -> bytes:
        await both.wait()
        await subscription.aclose()
        return b"released"

    subscription = await engine.subscribe([1], handler)
    link.deliver("a")
    link.deliver("b")
    await ticks()
    assert (link.answer_to("a"), link.answer_to("b")) == (b"released", b"released")


async def test_a_handler_that_lets_go_later_is_no_longer_waited_for(engine: Engine, link: FakeLink) -> None:
    go_on = asyncio.Event()

    async def handler(envelope: Envelope) -> bytes:
        if envelope.type == "late":
            await go_on.wait()
        await subscription.aclose()
        return b"released"

    subscription = await engine.subscribe([1], handler)
    link.deliver("late")
    link.deliver("early")
    await ticks()
    assert link.answer_to("early") is None  # it waits for the late one
    go_on.set()
    await ticks()
    assert (link.answer_to("early"), link.answer_to("late")) == (b"released", b"released")


async def test_a_handler_that_has_let_go_and_works_on_is_waited_for_again(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    async def handler(envelope: Envelope) -> bytes:
        await subscription.remove([1])
        return await worker(envelope)

    subscription = await engine.subscribe([1], handler)
    link.deliver("a")
    await ticks()
    assert worker.started == ["a"]
    closing = asyncio.ensure_future(subscription.aclose())
    await ticks()
    assert not closing.done()
    await worker.finish("a")
    await closing


async def test_a_handler_of_another_subscription_waits_for_the_handlers(
    engine: Engine, link: FakeLink, worker: Worker
) -> None:
    subscription = await engine.subscribe([1], worker)

    async def handler(_: Envelope) -> bytes:
        await subscription.aclose()
        return b"released"

    await engine.subscribe([2], handler)
    link.deliver("runs")
    link.deliver("closes", shard=2)
    await ticks()
    assert link.answer_to("closes") is None
    await worker.finish("runs")
    assert link.answer_to("closes") == b"released"


async def test_a_handler_that_closes_lends_its_slot_to_what_it_waits_for(
    open_engine: OpenEngine, link: FakeLink
) -> None:
    """With the only slot in the hands of the closer, the queued message could never start."""
    engine = await open_engine(max_concurrent=1)

    async def handler(envelope: Envelope) -> bytes:
        if envelope.type == "closes":
            await subscription.aclose()
        return envelope.type.encode()

    subscription = await engine.subscribe([1], handler)
    link.deliver("closes")
    link.deliver("queued")
    await ticks()
    assert (link.answer_to("queued"), link.answer_to("closes")) == (b"queued", b"closes")


async def test_a_handler_that_times_out_while_it_lets_go_is_cancelled(
    open_engine: OpenEngine, link: FakeLink, worker: Worker, clock: VirtualLoop
) -> None:
    engine = await open_engine(handler_timeout=3)

    async def handler(envelope: Envelope) -> bytes:
        if envelope.type == "closes":
            await subscription.aclose()
        return await worker(envelope)

    subscription = await engine.subscribe([1], handler)
    link.deliver("runs")
    await asyncio.sleep(1)
    link.deliver("closes", ttl_ms=1000)
    await asyncio.sleep(1.1)
    assert isinstance(link.answer_to("closes"), HandlerTimeoutError)
    await worker.finish("runs")
    await subscription.aclose()


async def test_adding_to_a_closed_subscription_says_so(engine: Engine, link: FakeLink) -> None:
    subscription = await engine.subscribe([1], echo)
    await subscription.aclose()
    with pytest.raises(TransportClosedError, match="the subscription is closed: subscribe again"):
        await subscription.add([2])
    assert held_by(link) == set()


async def test_closing_after_the_transport_is_closed_is_quiet(open_engine: OpenEngine, link: FakeLink) -> None:
    engine = await open_engine()
    subscription = await engine.subscribe([1], echo)
    await engine.aclose()
    calls = list(link.calls)
    await subscription.aclose()
    await subscription.remove([1])
    assert link.calls == calls
    with pytest.raises(TransportClosedError):
        await subscription.add([2])


async def test_a_request_of_a_handler_to_the_shard_that_it_let_go_finds_nobody(engine: Engine, link: FakeLink) -> None:
    async def handler(_: Envelope) -> bytes:
        assert current() is not None
        await subscription.aclose()
        return await engine.request(message())

    subscription = await engine.subscribe([1], handler)
    link.deliver("t")
    await ticks()
    link.answer(link.sent[0], b"from elsewhere")
    await ticks()
    assert link.answer_to("t") == b"from elsewhere"


@pytest.mark.parametrize("order", list(itertools.permutations(["add", "remove", "aclose"])), ids="-".join)
async def test_closing_ends_a_subscription_whatever_else_is_under_way(
    engine: Engine, link: FakeLink, order: tuple[str, ...]
) -> None:
    link.script["hold"] = link.script["drop"] = lambda: ticks(3)
    subscription = await engine.subscribe([1], echo)
    calls = {
        "add": lambda: subscription.add([2]),
        "remove": lambda: subscription.remove([2]),
        "aclose": subscription.aclose,
    }
    outcomes = await asyncio.gather(*(calls[name]() for name in order), return_exceptions=True)
    assert isinstance(outcomes[order.index("add")], TransportClosedError)
    assert subscription.shards == frozenset()
    assert held_by(link) == set()


def held_by(link: FakeLink) -> set[int]:
    """Return what the link holds after the calls that were made."""
    held: set[int] = set()
    for name, shards in link.calls:
        if name in {"hold", "drop"}:
            held = held | set(shards) if name == "hold" else held - set(shards)
    return held
