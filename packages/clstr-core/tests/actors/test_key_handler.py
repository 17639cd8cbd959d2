"""`clstr._actors.key_handler`: one handler per key, made once, evicted only when idle."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import pytest

import clstr_testing
from clstr._actors.key_handler import KeyHandler
from clstr._actors.starts import Start
from clstr._actors.stops import STOP_TIMEOUT
from clstr._context import Current, current, is_refusal_of, refuse, set_current
from clstr._messages.envelope import KEY_HEADER, Envelope
from clstr._node.node import Node
from clstr.abc import Handler, Transport
from clstr.errors import (
    DrainingError,
    EnvelopeExpiredError,
    HandlerError,
    KeyRequiredError,
    MissingKeyHeaderError,
    NotOwnerError,
    OverloadedError,
    StateNotStoredError,
    UnknownMessageError,
)

Handling = Callable[..., AbstractContextManager[Current]]
NoTasks = Callable[[], AbstractContextManager[None]]
Run = Callable[[Handler, Envelope], Awaitable[bytes | None]]


def keyed(key: str, shard: int = 0) -> Envelope:
    return Envelope(shard=shard, type="Do", headers={KEY_HEADER: key})


class Asking(Current):
    """A message that is being handled."""

    def time_left(self) -> float:
        return 60.0

    def lend(self) -> None: ...
    def reclaim(self) -> None: ...


class Open:
    """A handler that waits at a gate, and remembers what became of it."""

    def __init__(self, key: str, log: list[str]) -> None:
        self.key = key
        self.log = log
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def __call__(self, envelope: Envelope) -> bytes:
        self.entered.set()
        await self.gate.wait()
        return self.key.encode()

    async def aclose(self) -> None:
        self.log.append(f"closed {self.key}")


class Maker:
    """A ``create`` that counts, and may be made to wait or to fail."""

    def __init__(self) -> None:
        self.made: dict[str, Open] = {}
        self.calls: Counter[str] = Counter()
        self.log: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self, key: str) -> Handler:
        self.calls[key] += 1
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        self.log.append(f"made {key}")
        self.made[key] = Open(key, self.log)
        return self.made[key]


@pytest.fixture
async def maker() -> Maker:
    return Maker()


@pytest.fixture(autouse=True)
async def guard() -> Any:
    """Nothing here takes time."""
    async with asyncio.timeout(10):
        yield


def in_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(work)


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def start(handler: KeyHandler, key: str) -> asyncio.Task[bytes | None]:
    task = asyncio.ensure_future(handler(keyed(key)))
    await settle()
    return task


async def test_each_key_has_a_handler_of_its_own(maker: Maker) -> None:
    handler = KeyHandler(maker)
    assert [await handler(keyed(key)) for key in "abab"] == [b"a", b"b", b"a", b"b"]
    assert maker.calls == {"a": 1, "b": 1}


async def test_a_message_that_expires_while_its_handler_is_made_never_starts(maker: Maker, handling: Handling) -> None:
    handler = KeyHandler(maker)
    with handling(envelope=keyed("a"), left=0) as inside, pytest.raises(EnvelopeExpiredError) as caught:
        await handler(keyed("a"))
    assert is_refusal_of(caught.value, inside)
    assert not maker.made["a"].entered.is_set()
    assert await handler(keyed("a")) == b"a"
    assert maker.calls == {"a": 1}


async def test_create_may_be_sync() -> None:
    async def answer(envelope: Envelope) -> bytes | None:
        return None

    def create(key: str) -> Handler:
        return answer

    assert await KeyHandler(create)(keyed("a")) is None


async def test_twenty_first_messages_make_one_handler(maker: Maker) -> None:
    maker.gate.clear()
    handler = KeyHandler(maker)
    tasks = [await start(handler, "a") for _ in range(20)]
    maker.gate.set()
    assert await asyncio.gather(*tasks) == [b"a"] * 20
    assert maker.calls == {"a": 1}


async def test_messages_of_a_key_run_at_once(maker: Maker) -> None:
    handler = KeyHandler(maker)
    await handler(keyed("a"))
    maker.made["a"].gate.clear()
    tasks = [await start(handler, "a") for _ in range(3)]
    maker.made["a"].gate.set()
    assert await asyncio.gather(*tasks) == [b"a"] * 3


async def test_the_making_survives_the_cancellation_of_its_first_message(maker: Maker) -> None:
    maker.gate.clear()
    handler = KeyHandler(maker)
    first, second = await start(handler, "a"), await start(handler, "a")
    first.cancel()
    await settle()
    assert first.cancelled()
    maker.gate.set()
    assert await second == b"a"
    assert maker.calls == {"a": 1}
    assert not maker.cancelled.is_set()


async def test_the_making_goes_on_when_nobody_waits_for_it(maker: Maker) -> None:
    """It belongs to the key: callers that are less patient than it takes must not keep it from ever ending."""
    maker.gate.clear()
    handler = KeyHandler(maker, 1)
    tasks = [await start(handler, "a") for _ in range(2)]
    for task in tasks:
        task.cancel()
    await settle()
    maker.gate.set()
    await settle()
    assert maker.log == ["made a"]
    assert await handler(keyed("a")) == b"a"
    assert maker.calls == {"a": 1}
    assert await handler(keyed("b")) == b"b"  # it was idle, and makes room
    assert maker.log == ["made a", "closed a", "made b"]


async def test_a_making_that_nobody_waits_for_is_cancelled_when_its_shard_is_released(maker: Maker) -> None:
    maker.gate.clear()
    handler = KeyHandler(maker)
    (await start(handler, "a")).cancel()
    await settle()
    await handler.release_shards([0])
    assert maker.cancelled.is_set()
    maker.gate.set()
    assert await handler(keyed("a")) == b"a"
    assert maker.calls == {"a": 2}


def test_a_making_has_its_own_time_and_one_that_keeps_failing_pauses() -> None:
    async def run() -> None:
        maker = Maker()
        maker.gate.clear()
        handler = KeyHandler(maker, create_timeout=5)
        tasks = [await start(handler, "a") for _ in range(2)]
        await asyncio.sleep(5.1)
        for task in tasks:
            error = task.exception()
            assert isinstance(error, HandlerError)
            assert (str(error), error.maybe_executed) == ("TimeoutError: it took longer than 5 s", False)
        maker.gate.set()
        maker.error = ValueError("no")
        for _ in range(100):
            with pytest.raises(HandlerError):
                await handler(keyed("a"))
            await asyncio.sleep(0.01)
        assert maker.calls == {"a": 5}  # at 0, 5.1, 5.2, 5.4 and 5.8 seconds
        assert len(handler._entries) == 0

    in_virtual_time(run())


async def test_a_making_cancelled_before_it_began_is_forgotten(maker: Maker) -> None:
    handler = KeyHandler(maker)
    task = asyncio.ensure_future(handler(keyed("a")))
    await asyncio.sleep(0)
    task.cancel()
    await settle()
    assert task.cancelled()
    assert await handler(keyed("a")) == b"a"


async def test_a_handler_that_was_made_in_spite_of_cancellation_is_closed(maker: Maker) -> None:
    async def stubborn(key: str) -> Handler:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await maker(key)
        raise AssertionError

    handler = KeyHandler(stubborn)
    (await start(handler, "a")).cancel()
    await settle()
    await handler.aclose()
    assert maker.log == ["made a", "closed a"]


async def test_a_making_that_fails_when_it_is_cancelled_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def clumsy(key: str) -> Handler:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("clumsy")

    handler = KeyHandler(clumsy)
    (await start(handler, "a")).cancel()
    await settle()
    await handler.aclose()
    assert [(record.name, record.levelname) for record in caplog.records] == [("clstr.key_handler", "ERROR")]
    assert "clumsy" in caplog.text


async def test_what_create_raises_reaches_every_message_and_nothing_is_kept(maker: Maker) -> None:
    maker.gate.clear()
    maker.error = ValueError("no")
    handler = KeyHandler(maker)
    tasks = [await start(handler, "a") for _ in range(3)]
    maker.gate.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(error) for error in errors] == ["ValueError: no"] * 3
    assert {type(error) for error in errors} == {HandlerError}
    maker.error = None
    assert await handler(keyed("a")) == b"a"
    assert maker.calls == {"a": 2}


async def test_a_message_that_comes_after_a_failure_tries_again_even_if_others_have_not_left(maker: Maker) -> None:
    maker.gate.clear()
    maker.error = ValueError("no")
    handler = KeyHandler(maker)
    failed = await start(handler, "a")

    async def next_message() -> bytes | None:
        """Runs when the making has failed, before the message that waits for it does."""
        maker.error = None
        return await handler(keyed("a"))

    successors: list[asyncio.Task[bytes | None]] = []
    making = handler._entries["a"].making
    making.add_done_callback(lambda _: successors.append(asyncio.ensure_future(next_message())))
    maker.gate.set()
    with pytest.raises(HandlerError, match="ValueError: no"):
        await failed
    assert await successors[0] == b"a"


async def test_a_making_that_fails_as_its_last_message_is_cancelled_is_not_reported(maker: Maker) -> None:
    """asyncio would complain of an exception that was never retrieved."""
    maker.gate.clear()
    maker.error = ValueError("no")
    handler = KeyHandler(maker)
    task = await start(handler, "a")
    handler._entries["a"].making.add_done_callback(lambda _: task.cancel())
    maker.gate.set()
    await settle()
    assert task.done()


async def test_a_create_that_raises_cancelled_error_does_not_hang(maker: Maker) -> None:
    maker.error = asyncio.CancelledError()
    with pytest.raises(HandlerError, match="CancelledError: it cancelled itself"):
        await KeyHandler(maker)(keyed("a"))


@pytest.mark.parametrize("made", [None, b"bytes", 7], ids=repr)
async def test_a_create_that_returns_no_handler_is_a_type_error(made: Any) -> None:
    handler = KeyHandler(lambda key: made)
    with pytest.raises(HandlerError, match=f"TypeError: create must return a handler.*not {made!r}"):
        await handler(keyed("a"))


async def test_a_refusal_of_create_refuses_every_message_that_waits(run_handler: Run) -> None:
    gate = asyncio.Event()

    async def create(key: str) -> Handler:
        await gate.wait()
        raise refuse(UnknownMessageError("Do", ""))

    handler = KeyHandler(create)
    tasks = [asyncio.ensure_future(run_handler(handler, keyed("a"))) for _ in range(3)]
    await settle()
    gate.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [UnknownMessageError] * 3
    assert len({id(error) for error in errors}) == 3


async def test_an_error_of_create_that_refuses_nothing_is_a_handlers_error(run_handler: Run, maker: Maker) -> None:
    maker.error = UnknownMessageError("Onward", "")
    with pytest.raises(HandlerError, match="Onward"):
        await run_handler(KeyHandler(maker), keyed("a"))


async def test_without_a_key_a_message_is_refused(run_handler: Run, maker: Maker) -> None:
    handler = KeyHandler(maker)
    with pytest.raises(MissingKeyHeaderError) as missing:
        await run_handler(handler, Envelope(shard=0, type="Do"))
    with pytest.raises(KeyRequiredError) as empty:
        await run_handler(handler, keyed(""))
    assert not missing.value.maybe_executed
    assert not empty.value.maybe_executed
    assert not maker.calls


async def test_the_key_that_has_been_idle_for_longest_makes_room(maker: Maker) -> None:
    handler = KeyHandler(maker, cache_size=2)
    for key in "abac":
        await handler(keyed(key))
    assert maker.log == ["made a", "made b", "closed b", "made c"]
    await handler(keyed("a"))
    assert maker.calls == {"a": 1, "b": 1, "c": 1}


async def test_a_key_in_use_is_never_evicted(maker: Maker) -> None:
    handler = KeyHandler(maker, cache_size=2)
    await handler(keyed("a"))
    maker.made["a"].gate.clear()
    using = await start(handler, "a")
    for key in "bcd":
        await handler(keyed(key))
    assert maker.log == ["made a", "made b", "closed b", "made c", "closed c", "made d"]
    maker.made["a"].gate.set()
    assert await using == b"a"


async def test_when_every_key_is_in_use_more_are_refused(run_handler: Run, maker: Maker) -> None:
    handler = KeyHandler(maker, cache_size=1)
    maker.gate.clear()
    using = await start(handler, "a")
    with pytest.raises(OverloadedError) as caught:
        await run_handler(handler, keyed("b"))
    assert (caught.value.limit, caught.value.bound, caught.value.maybe_executed) == ("cache_size", 1, False)
    maker.gate.set()
    assert await using == b"a"
    assert await handler(keyed("b")) == b"b"


async def test_without_a_limit_nothing_is_evicted(maker: Maker) -> None:
    handler = KeyHandler(maker, cache_size=None)
    for number in range(1100):
        await handler(keyed(str(number)))
    assert not [line for line in maker.log if line.startswith("closed")]


async def test_by_default_1024_handlers_are_kept(maker: Maker) -> None:
    handler = KeyHandler(maker)
    for number in range(1025):
        await handler(keyed(str(number)))
    assert [line for line in maker.log if line.startswith("closed")] == ["closed 0"]


async def test_the_new_handler_is_made_when_the_evicted_one_has_closed() -> None:
    log: list[str] = []
    closing, may_close = asyncio.Event(), asyncio.Event()

    class Slow:
        async def __call__(self, envelope: Envelope) -> None:
            return None

        async def aclose(self) -> None:
            assert current() is None
            closing.set()
            await may_close.wait()
            log.append("closed")

    def create(key: str) -> Handler:
        log.append(f"made {key}")
        return Slow()

    handler = KeyHandler(create, cache_size=1)
    await handler(keyed("a"))
    other = await start(handler, "b")
    await closing.wait()
    assert log == ["made a"]
    may_close.set()
    await other
    assert log == ["made a", "closed", "made b"]


async def test_a_key_never_has_two_handlers_not_even_while_one_closes() -> None:
    """The message that waits for the closing is cancelled, and the next one waits for it all the same."""
    log: list[str] = []
    may_close = asyncio.Event()

    class Slow:
        def __init__(self, key: str) -> None:
            self.key = key

        async def __call__(self, envelope: Envelope) -> None:
            return None

        async def aclose(self) -> None:
            await may_close.wait()
            log.append(f"closed {self.key}")

    def create(key: str) -> Handler:
        log.append(f"made {key}")
        return Slow(key)

    handler = KeyHandler(create, cache_size=2)
    for key in "ab":
        await handler(keyed(key))
    evicting = await start(handler, "c")
    evicting.cancel()
    await settle()
    impatient = await start(handler, "a")
    impatient.cancel()
    await settle()
    patient = await start(handler, "a")
    assert log == ["made a", "made b"]
    may_close.set()
    await patient
    assert log.index("closed a") < log.index("made a", 1)
    await handler.aclose()
    assert log.count("made a") == log.count("closed a") == 2
    assert not handler._ending


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_what_closing_raises_is_logged_and_stops_nothing(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        async def __call__(self, envelope: Envelope) -> bytes:
            return b"ok"

        def aclose(self) -> Awaitable[None]:
            if is_async:
                return self.fail()
            raise ValueError("broken")

        async def fail(self) -> None:
            raise ValueError("broken")

    handler = KeyHandler(lambda key: Broken(), cache_size=1)
    await handler(keyed("secret"))
    assert await handler(keyed("b")) == b"ok"
    record = caplog.records[0]
    assert (record.name, record.levelname) == ("clstr.key_handler", "ERROR")
    assert record.getMessage().endswith("Broken failed, or took longer than 10 s")
    assert record.exc_info is not None
    assert "secret" not in caplog.text


async def test_a_sync_aclose_is_called(maker: Maker) -> None:
    log: list[str] = []

    class Sync:
        async def __call__(self, envelope: Envelope) -> None:
            return None

        def aclose(self) -> None:
            log.append("closed")

    handler = KeyHandler(lambda key: Sync(), cache_size=1)
    await handler(keyed("a"))
    await handler(keyed("b"))
    assert log == ["closed"]


async def test_a_handler_without_aclose_is_dropped() -> None:
    async def answer(envelope: Envelope) -> bytes:
        return b"ok"

    handler = KeyHandler(lambda key: answer, cache_size=1)
    assert [await handler(keyed(key)) for key in "ab"] == [b"ok", b"ok"]
    assert not handler._ending
    await handler.aclose()


async def test_aclose_closes_idle_handlers_and_those_in_use_when_they_are_done(maker: Maker) -> None:
    handler = KeyHandler(maker)
    for key in "ab":
        await handler(keyed(key))
    maker.made["b"].gate.clear()
    using = await start(handler, "b")
    with pytest.raises(StateNotStoredError) as caught:
        await handler.aclose()
    assert caught.value.keys == ("b",)
    assert maker.log == ["made a", "made b", "closed a"]
    maker.made["b"].gate.set()
    assert await using == b"b"
    await handler.aclose()
    assert maker.log == ["made a", "made b", "closed a", "closed b"]
    assert not handler._ending


def test_a_handler_that_has_been_idle_for_long_enough_is_closed() -> None:
    async def run() -> None:
        maker = Maker()
        handler = KeyHandler(maker, idle_after=10)
        await handler(keyed("a"))
        await asyncio.sleep(6)
        await handler(keyed("b"))
        maker.made["b"].gate.clear()
        using = await start(handler, "b")
        await asyncio.sleep(5)
        assert maker.log == ["made a", "made b", "closed a"]
        await asyncio.sleep(60)  # one in use is not idle
        assert maker.log == ["made a", "made b", "closed a"]
        maker.made["b"].gate.set()
        assert await using == b"b"
        await asyncio.sleep(10.1)
        assert maker.log == ["made a", "made b", "closed a", "closed b"]
        assert await handler(keyed("a")) == b"a"
        await handler.aclose()

    in_virtual_time(run())


def test_by_default_nothing_is_closed_for_being_idle() -> None:
    async def run() -> None:
        maker = Maker()
        handler = KeyHandler(maker)
        await handler(keyed("a"))
        await asyncio.sleep(10**6)
        assert maker.log == ["made a"]
        await handler.aclose()

    in_virtual_time(run())


async def test_the_handlers_of_a_released_shard_are_closed_and_those_in_use_when_they_are_done(maker: Maker) -> None:
    handler = KeyHandler(maker)
    for key, shard in (("a", 1), ("b", 1), ("c", 2)):
        await handler(keyed(key, shard))
    maker.made["b"].gate.clear()
    using = await start(handler, "b")
    with pytest.raises(StateNotStoredError) as caught:
        await handler.release_shards([1])
    assert caught.value.keys == ("b",)
    assert maker.log[3:] == ["closed a"]
    maker.made["b"].gate.set()
    await using
    await handler.release_shards([1])
    assert maker.log[3:] == ["closed a", "closed b"]
    assert await handler(keyed("a", 1)) == b"a"  # acquired again
    await handler.aclose()


async def test_a_node_that_releases_a_shard_has_closed_its_handlers(transport: Transport, maker: Maker) -> None:
    async with KeyHandler(maker) as handler, Node(transport, handler, shards=[0, 1]) as node:
        await transport.request(keyed("a", 1))
        await node.release([1])
        assert maker.log == ["made a", "closed a"]


@pytest.mark.parametrize("is_there", [False, True], ids=["not made", "made"])
async def test_a_message_whose_shard_was_released_before_it_came_reaches_no_handler(
    maker: Maker, handling: Handling, is_there: bool
) -> None:
    """A middleware took longer than the drain: another node may own the key."""
    handler = KeyHandler(maker)
    if is_there:
        await handler(keyed("a"))
    made = maker.calls.total()
    with handling(envelope=keyed("a")) as inside:
        inside.is_revoked = True
        with pytest.raises(NotOwnerError) as caught:
            await handler(keyed("a"))
    assert is_refusal_of(caught.value, inside)
    assert maker.calls.total() == made


async def test_a_message_whose_shard_was_released_while_its_handler_was_made_is_not_handled(
    maker: Maker, handling: Handling
) -> None:
    handler = KeyHandler(maker)
    maker.gate.clear()
    with handling(envelope=keyed("a")) as inside:
        answer = asyncio.ensure_future(handler(keyed("a")))
        await asyncio.sleep(0)
        inside.is_revoked = True
        await handler.release_shards([0])
        maker.gate.set()
        with pytest.raises(NotOwnerError):
            await answer
    await handler.aclose()
    assert maker.log == ["made a", "closed a"]


def test_an_aclose_that_hangs_is_cancelled_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(Open):
        async def aclose(self) -> None:
            await asyncio.Event().wait()

    async def run() -> None:
        handler = KeyHandler(lambda key: Hanging(key, []))
        await handler(keyed("a"))
        before = asyncio.get_running_loop().time()
        with pytest.raises(StateNotStoredError):
            await handler.aclose()
        assert asyncio.get_running_loop().time() - before == pytest.approx(STOP_TIMEOUT, abs=0.01)
        assert not handler._ending

    in_virtual_time(run())
    [record] = caplog.records
    assert record.getMessage().endswith("Hanging failed, or took longer than 10 s")


@pytest.mark.parametrize("end", ["aclose", "release"])
def test_an_aclose_that_ignores_cancellation_is_waited_for_30_seconds(
    caplog: pytest.LogCaptureFixture, end: str
) -> None:
    async def run() -> None:
        let_go = asyncio.Event()

        class Stubborn(Open):
            async def aclose(self) -> None:
                while not let_go.is_set():
                    try:
                        await let_go.wait()
                    except asyncio.CancelledError:
                        continue

        handler = KeyHandler(lambda key: Stubborn(key, []))
        await handler(keyed("a"))
        before = asyncio.get_running_loop().time()
        with pytest.raises(StateNotStoredError):
            await (handler.aclose() if end == "aclose" else handler.release_shards([0]))
        assert asyncio.get_running_loop().time() - before == pytest.approx(3 * STOP_TIMEOUT, abs=0.01)
        let_go.set()
        [ending] = handler._ending.values()
        await asyncio.wait([ending.ended])

    in_virtual_time(run())
    [record] = caplog.records
    assert (record.name, record.levelname) == ("clstr.key_handler", "ERROR")
    assert record.getMessage() == "the stop of key 'a' ignores its cancellation: nothing waits for it any longer"


@pytest.mark.parametrize("end", ["aclose", "release", "idle"])
def test_handlers_that_close_together_take_turns(end: str) -> None:
    """If all began at once, those that come last would not get a connection in their ten seconds."""
    closing = peak = 0
    closed: list[str] = []

    async def run() -> None:
        pool = asyncio.Semaphore(5)

        class Storing(Open):
            async def aclose(self) -> None:
                nonlocal closing, peak
                closing += 1
                peak = max(peak, closing)
                async with pool:
                    await asyncio.sleep(1)
                closed.append(self.key)
                closing -= 1

        handler = KeyHandler(lambda key: Storing(key, []), idle_after=60, max_stops=20)
        for number in range(100):
            await handler(keyed(str(number)))
        if end == "aclose":
            await handler.aclose()
        elif end == "release":
            await handler.release_shards([0])
        else:
            await asyncio.sleep(60.1)
            before = asyncio.get_running_loop().time()
            assert await handler(keyed("99")) == b"99"  # its turn has not come: it is in use again
            assert asyncio.get_running_loop().time() == before
            await asyncio.sleep(90)
        assert (len(closed), peak) == (100, 20)
        await handler.aclose()

    in_virtual_time(run())


async def test_a_release_waits_for_an_evicted_handler_that_still_closes() -> None:
    gate = asyncio.Event()

    class Slow(Open):
        async def aclose(self) -> None:
            await gate.wait()

    handler = KeyHandler(lambda key: Slow(key, []), 1)
    await handler(keyed("a", 1))
    evicting = await start(handler, "b")
    releasing = asyncio.create_task(handler.release_shards([1]))
    await settle()
    assert not releasing.done()
    gate.set()
    await releasing
    assert await evicting == b"b"
    await handler.aclose()


async def test_closing_that_is_cancelled_says_what_is_not_closed(caplog: pytest.LogCaptureFixture) -> None:
    gate = asyncio.Event()

    class Slow(Open):
        async def aclose(self) -> None:
            await gate.wait()

    handler = KeyHandler(lambda key: Slow(key, []))
    await handler(keyed("a"))
    closing = asyncio.create_task(handler.aclose())
    await settle()
    closing.cancel()
    await asyncio.wait([closing])
    [record] = caplog.records
    assert record.getMessage() == (
        "the wait for closing handlers was cancelled: the state of 1 key is not stored: 'a'; the log says what failed"
    )
    gate.set()
    await handler.aclose()


async def test_a_message_that_closes_its_handler_does_not_say_that_it_uses_it(handling: Handling) -> None:
    class Closer(Open):
        async def __call__(self, envelope: Envelope) -> bytes:
            await handler.aclose()
            return b"closed"

    handler = KeyHandler(lambda key: Closer(key, []))
    with handling(envelope=keyed("a")):
        assert await handler(keyed("a")) == b"closed"


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


async def test_making_and_closing_are_done_for_no_message(handling: Handling) -> None:
    seen: list[tuple[str, str, bool]] = []

    class Curious(Open):
        async def aclose(self) -> None:
            seen.append((f"close {self.key}", tenant.get(), current() is None))

    async def create(key: str) -> Handler:
        inside = current()
        seen.append((f"create {key}", tenant.get(), isinstance(inside, Start)))
        return Curious(key, [])

    base = contextvars.copy_context()
    base.run(tenant.set, "the application")

    class Received(Asking):
        def base_context(self) -> contextvars.Context:
            return base

    async def call(key: str) -> None:
        tenant.set(key)
        set_current(Received(envelope=keyed(key)))
        await handler(keyed(key))

    handler = KeyHandler(create, 1)
    for key in "ab":
        await asyncio.create_task(call(key))
    assert seen == [(what, "the application", True) for what in ("create a", "close a", "create b")]
    await handler.aclose()


async def test_after_aclose_messages_are_refused(run_handler: Run, maker: Maker) -> None:
    async with KeyHandler(maker) as handler:
        await run_handler(handler, keyed("a"))
    assert maker.log == ["made a", "closed a"]
    with pytest.raises(DrainingError) as caught:
        await run_handler(handler, keyed("a"))
    assert not caught.value.maybe_executed


async def test_a_message_lends_its_slot_while_its_handler_is_made(maker: Maker) -> None:
    class Counting(Current):
        lent: list[int] = msgspec.field(default_factory=list)

        def time_left(self) -> float:
            return 1.0

        def lend(self) -> None:
            self.lent.append(1)

        def reclaim(self) -> None:
            self.lent.append(-1)

    maker.gate.clear()
    handler = KeyHandler(maker)
    inside = [Counting(envelope=keyed("a")), Counting(envelope=keyed("a"))]
    tasks = []
    for each in inside:
        set_current(each)
        tasks.append(asyncio.ensure_future(handler(each.envelope)))
    set_current(None)
    await settle()
    assert [each.lent for each in inside] == [[1], [1]]
    tasks[0].cancel()
    maker.gate.set()
    await tasks[1]
    assert [each.lent for each in inside] == [[1, -1], [1, -1]]


async def test_a_handlers_own_error_leaves_it_in_place(maker: Maker) -> None:
    calls = []

    async def fail(envelope: Envelope) -> bytes:
        raise ValueError("no")

    def create(key: str) -> Handler:
        calls.append(key)
        return fail

    handler = KeyHandler(create)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await handler(keyed("a"))
    assert calls == ["a"]


class Chaos:
    """Makes strict handlers, with delays and failures."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.alive: Counter[str] = Counter()

    async def pause(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)

    async def __call__(self, key: str) -> Handler:
        await self.pause()
        if self.chance.random() < 0.1:
            raise ValueError(key)
        self.alive[key] += 1
        assert self.alive[key] == 1
        assert sum(self.alive.values()) <= 16  # at most 8, and those that close for a message that was cancelled
        return Strict(key, self)


class Strict:
    """A handler that must not be used once it is closed."""

    def __init__(self, key: str, chaos: Chaos) -> None:
        self.key = key
        self.chaos = chaos
        self.is_closed = False

    async def __call__(self, envelope: Envelope) -> None:
        assert not self.is_closed
        await self.chaos.pause()
        assert not self.is_closed

    async def aclose(self) -> None:
        self.is_closed = True
        await self.chaos.pause()
        self.chaos.alive[self.key] -= 1


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_left_after_random_cancellations(seed: int) -> None:
    """Every handler that was made is closed, none was used while closed, and no task is left."""
    chance = random.Random(seed)
    chaos = Chaos(chance)
    tasks_before = asyncio.all_tasks()
    handler = KeyHandler(chaos, cache_size=8)
    tasks: list[asyncio.Task[bytes | None]] = []
    for _ in range(1500):
        tasks.append(asyncio.ensure_future(handler(keyed(chance.choice("abcdefghijklmnop")))))
        if chance.random() < 0.5:
            chance.choice(tasks[-10:]).cancel()
        await chaos.pause()
    outcomes = Counter(type(outcome) for outcome in await asyncio.gather(*tasks, return_exceptions=True))
    await handler.aclose()
    assert outcomes.keys() <= {type(None), asyncio.CancelledError, HandlerError, OverloadedError}
    assert min(outcomes[type(None)], outcomes[asyncio.CancelledError], outcomes[HandlerError]) > 50
    assert chaos.alive.total() == 0
    assert asyncio.all_tasks() == tasks_before


@pytest.mark.parametrize("create", [None, "create", 7], ids=repr)
def test_create_must_be_callable(create: Any) -> None:
    with pytest.raises(TypeError, match="create must be a function"):
        KeyHandler(create)


@pytest.mark.parametrize(
    ("cache_size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)]
)
def test_the_cache_size_must_be_a_positive_int(cache_size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="cache_size must be"):
        KeyHandler(lambda key: None, cache_size)  # type: ignore[arg-type, return-value]  # never called


class NoWalk(dict[str, Any]):
    """A dict that may be looked up, but not walked through."""

    def __iter__(self) -> Any:
        raise AssertionError("it is walked through")

    keys = values = items = __iter__


async def test_a_release_costs_in_proportion_to_the_keys_of_its_shards(maker: Maker) -> None:
    handler = KeyHandler(maker)
    handler._entries = NoWalk()
    for key, shard in (("a", 1), ("b", 2), ("c", 1)):
        await handler(keyed(key, shard))
    await handler.release_shards([1, 3])
    assert maker.log[3:] == ["closed a", "closed c"]
    await handler.release_shards([2])
    assert (len(handler._entries), len(handler._by_shard)) == (0, 0)


async def test_a_task_factory_that_fails_costs_a_message_but_no_key(
    maker: Maker, handling: Handling, no_tasks: NoTasks
) -> None:
    handler = KeyHandler(maker, 1)
    with handling(envelope=keyed("a")) as inside, no_tasks(), pytest.raises(HandlerError, match="no tasks") as caught:
        await handler(inside.envelope)
    assert is_refusal_of(caught.value, inside)
    assert await handler(keyed("b")) == b"b"  # the place is free
    assert await handler(keyed("a")) == b"a"
    await handler.aclose()
    gc.collect()  # a coroutine that nobody awaited would be reported here


async def test_a_handler_is_closed_although_the_task_factory_fails(maker: Maker, no_tasks: NoTasks) -> None:
    handler = KeyHandler(maker)
    await handler(keyed("a"))
    with no_tasks():
        await handler.aclose()
    assert maker.log == ["made a", "closed a"]


@pytest.mark.usefixtures("eager")
async def test_a_handler_that_closes_at_once_under_eager_tasks_is_forgotten(maker: Maker) -> None:
    handler = KeyHandler(maker)
    await handler(keyed("a"))
    await handler.aclose()
    assert maker.log == ["made a", "closed a"]
    assert handler._ending == {}


async def test_a_fresh_handler_has_the_same_arguments_and_no_handlers(maker: Maker) -> None:
    handler = KeyHandler(maker, 3, idle_after=7, max_stops=5)
    await handler(keyed("a"))
    fresh = handler.fresh()
    await fresh(keyed("a"))
    assert maker.calls["a"] == 2
    assert (fresh._cache_size, fresh._idle.idle_after, fresh._stops.limit) == (3, 7, 5)
    for each in (handler, fresh):
        await each.aclose()


async def test_an_aborted_handler_closes_nothing(maker: Maker) -> None:
    handler = KeyHandler(maker)
    for key in "ab":
        await handler(keyed(key))
    maker.made["b"].gate.clear()
    using = await start(handler, "b")
    handler.abort()
    maker.made["b"].gate.set()
    await using
    await handler.aclose()
    assert maker.log == ["made a", "made b"]
    with pytest.raises(DrainingError):
        await handler(keyed("a"))
