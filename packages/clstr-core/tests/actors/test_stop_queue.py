"""Stops take turns, and each is timed from its own start."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import clstr_testing
from clstr._actors.stop_queue import LATE_AFTER, Stop, StopQueue, log_cut_short, not_stored
from clstr._rate_limited_log import RateLimitedLog

LOGGER = logging.getLogger("clstr.test")


def in_virtual_time(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(work())


class Stops:
    """A queue for stops that the test lets end."""

    def __init__(self, limit: int) -> None:
        self.begun: list[str] = []
        self.gates: dict[str, asyncio.Future[bool]] = {}
        self.free = 0
        self.queue = StopQueue(limit, self.note_free_place, RateLimitedLog(LOGGER))

    def note_free_place(self) -> None:
        self.free += 1

    def add(self, key: str) -> Stop:
        stop = self.queue.new(key, "a test")
        self.gates[key] = asyncio.get_running_loop().create_future()
        self.queue.add(stop, lambda: self.run(key), contextvars.copy_context())
        return stop

    async def run(self, key: str) -> bool:
        self.begun.append(key)
        return await self.gates[key]


async def ticks() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_run_at_a_time_in_the_order_in_which_they_were_added() -> None:
    stops = Stops(2)
    added = [stops.add(key) for key in "abcd"]
    await ticks()
    assert (stops.begun, stops.queue.has_room()) == (["a", "b"], False)
    stops.gates["b"].set_result(True)
    await ticks()
    assert (stops.begun, stops.free) == (["a", "b", "c"], 0)
    stops.gates["a"].set_result(False)
    stops.gates["c"].set_result(True)
    stops.gates["d"].set_result(True)
    await asyncio.wait_for(asyncio.wait([stop.over for stop in added]), 5)
    assert not_stored(added) == ["a"]
    assert stops.queue.has_room()
    assert stops.free > 0


def test_one_that_is_late_is_not_stored_is_logged_and_gives_its_place_away(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        stops = Stops(1)
        before = loop.time()
        first, second = stops.add("a"), stops.add("b")
        assert not await first.over
        assert loop.time() - before == pytest.approx(LATE_AFTER, abs=0.01)
        await ticks()
        assert stops.begun == ["a", "b"]
        await asyncio.sleep(LATE_AFTER - 1)  # timed from its own start
        assert not second.over.done()
        stops.gates["b"].set_result(True)
        assert await second.over
        stops.gates["a"].set_result(True)  # it ends after all, too late to be told of
        await ticks()
        assert not first.is_stored

    in_virtual_time(run)
    assert [record.getMessage() for record in caplog.records] == [
        "the stop of key 'a' ignores its cancellation: nothing waits for it any longer"
    ]


async def test_a_program_that_cancels_a_stop_begins_no_other() -> None:
    stops = Stops(1)
    added = [stops.add(key) for key in "abc"]
    await ticks()
    assert added[0].task is not None
    added[0].task.cancel()
    await asyncio.wait_for(asyncio.wait([stop.over for stop in added]), 5)
    assert (stops.begun, not_stored(added)) == (["a"], ["a", "b", "c"])


async def test_each_runs_in_a_context_of_its_own() -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    seen: list[str] = []

    async def work() -> bool:
        seen.append(tenant.get())
        tenant.set("of a stop")
        return True

    queue = StopQueue(1, lambda: None, RateLimitedLog(LOGGER))
    stops = [queue.new(key, "a test") for key in "abc"]
    context = contextvars.copy_context()
    context.run(tenant.set, "base")
    for stop in stops:
        queue.add(stop, work, context)
    await asyncio.wait_for(asyncio.wait([stop.over for stop in stops]), 5)
    assert seen == ["base"] * 3


async def test_what_is_stored_is_not_told_of_when_a_wait_is_cut_short(caplog: pytest.LogCaptureFixture) -> None:
    stops = Stops(2)
    added = [stops.add(key) for key in "ab"]
    for gate in stops.gates.values():
        gate.set_result(True)
    await asyncio.wait_for(asyncio.wait([stop.over for stop in added]), 5)
    log_cut_short(added, "closing", LOGGER)
    assert caplog.records == []
