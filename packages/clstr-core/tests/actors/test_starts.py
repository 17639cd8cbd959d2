"""Starts: bounded, timed from their own start, and not repeated while they keep failing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any

import pytest

import clstr_testing
from clstr._actors import starts as _starts
from clstr._actors.starts import FIRST_PAUSE, LONGEST_PAUSE, REMEMBERED, Start, StartFailedError, Starts, StartSlots
from clstr._context import Current, current, is_refusal_of, refuse
from clstr._rate_limited_log import RateLimitedLog
from clstr.errors import ClstrError, HandlerError, OverloadedError

Handling = Callable[..., AbstractContextManager[Current]]
logger = logging.getLogger("clstr.test")


def new_starts(timeout: float = 30.0) -> Starts:
    return Starts(lambda: "a Worker", timeout, RateLimitedLog(logger))


def in_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(work)


async def fail(starts: Starts, key: str = "a", error: BaseException | None = None) -> None:
    """Let a start fail, in a task of its own."""

    def work() -> None:
        raise error or ValueError("no database")

    with pytest.raises(StartFailedError):
        await asyncio.create_task(starts.run(starts.new(key, 1), work))


async def test_work_may_be_sync_or_async_and_sees_its_start() -> None:
    starts, seen = new_starts(), list[Current | None]()

    async def work() -> None:
        await asyncio.sleep(0)
        seen.append(current())

    for each in (work, lambda: seen.append(current())):
        await asyncio.create_task(starts.run(starts.new("a", 1), each))
    assert [each.envelope.key for each in seen if each is not None] == ["a", "a"]
    starts.check("a")


def test_a_start_has_its_own_time_and_no_deadline_of_its_cause(handling: Handling) -> None:
    left: list[float] = []

    async def work() -> None:
        await asyncio.sleep(20)
        inside = current()
        assert isinstance(inside, Start)
        left.append(inside.time_left())
        await asyncio.sleep(11)

    async def run() -> None:
        starts = new_starts()
        with handling(left=0.1, headers={"traceparent": "x"}) as cause:
            cause.depth, cause.chain = 3, ("Account:b#1",)
            start = starts.new("a", 1)
        assert (start.depth, start.chain, start.time_left()) == (3, ("Account:b#1",), 0)
        assert start.envelope.headers == {"x-clstr-key": "a"}
        with pytest.raises(StartFailedError):
            await asyncio.create_task(starts.run(start, work))
        assert asyncio.get_running_loop().time() == pytest.approx(30)
        error = starts.failure("a")
        assert isinstance(error, HandlerError)
        assert (error.error_type, error.error_message) == ("TimeoutError", "it took longer than 30 s")

    in_virtual_time(run())
    assert left == [pytest.approx(10)]


async def test_a_failure_refuses_each_message_as_its_own_and_is_logged_once(
    handling: Handling, caplog: pytest.LogCaptureFixture
) -> None:
    starts = new_starts()
    await fail(starts)
    for _ in range(2):
        with handling() as message:
            error = starts.failure("a")
            assert is_refusal_of(error, message)
            assert isinstance(error, HandlerError)
            assert (error.error_type, error.error_message) == ("ValueError", "no database")
            assert not error.maybe_executed
            assert error.__traceback__ is None
    [record] = caplog.records
    assert record.getMessage() == "starting a Worker failed, 1 in a row"
    assert record.exc_info is not None


async def test_a_refusal_keeps_its_type(handling: Handling, caplog: pytest.LogCaptureFixture) -> None:
    """So ``on_start`` may say that its database is overloaded."""
    starts = new_starts()

    def work() -> None:
        raise refuse(OverloadedError("pool", 5))

    with pytest.raises(StartFailedError):
        await asyncio.create_task(starts.run(starts.new("a", 1), work))
    with handling() as message:
        error = starts.failure("a")
        assert is_refusal_of(error, message)
        assert isinstance(error, OverloadedError)
        assert (error.limit, error.bound) == ("pool", 5)
    assert caplog.records == []


async def test_an_error_of_a_request_is_no_refusal_of_the_message() -> None:
    starts = new_starts()
    await fail(starts, error=OverloadedError("max_queue", 1))
    error = starts.failure("a")
    assert isinstance(error, HandlerError)
    assert error.error_type == "OverloadedError"


async def test_a_start_that_cancels_itself_has_failed() -> None:
    starts = new_starts()
    await fail(starts, error=asyncio.CancelledError())
    error = starts.failure("a")
    assert isinstance(error, HandlerError)
    assert (error.error_type, error.error_message) == ("CancelledError", "it cancelled itself")


async def test_a_start_that_is_cancelled_has_not_failed() -> None:
    starts = new_starts()
    task = asyncio.create_task(starts.run(starts.new("a", 1), asyncio.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    starts.check("a")
    error = starts.failure("a")
    assert isinstance(error, HandlerError)
    assert error.error_message == "starting a Worker failed"


def test_starts_that_keep_failing_pause_for_longer_and_longer() -> None:
    async def run() -> None:
        starts, loop = new_starts(), asyncio.get_running_loop()
        pauses = []
        for _ in range(12):
            await fail(starts)
            began = loop.time()
            while True:
                try:
                    starts.check("a")
                    break
                except ClstrError as error:
                    assert not error.maybe_executed  # noqa: PT017 -- until it does not raise
                    await asyncio.sleep(0.01)
            pauses.append(loop.time() - began)
        assert pauses[0] == 0  # the next message tries again at once
        expected = [min(FIRST_PAUSE * 2**number, LONGEST_PAUSE) for number in range(11)]
        assert pauses[1:] == [pytest.approx(pause, abs=0.02) for pause in expected]
        await fail(starts)
        with pytest.raises(HandlerError, match=r"no database \(13 starts failed in a row; the next begins in 10 s\)"):
            starts.check("a")
        starts.check("b")

    in_virtual_time(run())


def test_a_success_or_a_long_time_begins_anew() -> None:
    async def run() -> None:
        starts = new_starts()
        for _ in range(2):
            await fail(starts)
        await asyncio.create_task(starts.run(starts.new("a", 1), lambda: None))
        await fail(starts)
        starts.check("a")
        await fail(starts)
        await asyncio.sleep(REMEMBERED + FIRST_PAUSE + 1)
        await fail(starts)
        starts.check("a")

    in_virtual_time(run())


def test_the_memory_of_failures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_starts, "MAX_FAILURES", 3)

    async def run() -> None:
        starts = new_starts()
        for key in "abcad":
            await fail(starts, key)
        assert list(starts._failures) == ["c", "a", "d"]
        await asyncio.sleep(REMEMBERED + 1)
        await fail(starts, "e")
        assert list(starts._failures) == ["e"]

    in_virtual_time(run())


async def test_so_many_starts_run_at_once_and_one_that_awaits_a_request_lets_another_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_starts, "MAX_STARTS", 2)
    starts, running, go_on = new_starts(), list[Start](), asyncio.Event()

    async def work() -> None:
        inside = current()
        assert isinstance(inside, Start)
        running.append(inside)
        await go_on.wait()

    tasks = [asyncio.create_task(starts.run(starts.new(key, 1), work)) for key in "abcd"]
    await asyncio.sleep(0)
    assert len(running) == 2
    running[0].lend()
    await asyncio.sleep(0)
    assert len(running) == 3
    running[0].reclaim()
    go_on.set()
    await asyncio.gather(*tasks)
    assert len(running) == 4


async def test_who_is_cancelled_while_it_waits_for_a_slot_leaves_it_to_others() -> None:
    slots = StartSlots(1)
    await slots.take()
    waiting = [asyncio.create_task(slots.take()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    slots.lend()  # to the second, which is cancelled in this tick
    waiting[1].cancel()
    await asyncio.wait(waiting[:2])
    async with asyncio.timeout(5):
        await waiting[2]
