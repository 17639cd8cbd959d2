"""Work that nobody waits for is bounded, and what becomes of it is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest

import clstr_testing
from clstr._actors.stops import STOP_TIMEOUT, cancel_all, finish
from clstr._rate_limited_log import RateLimitedLog

LOGGER = logging.getLogger("clstr.test")


def in_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(work)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_what_it_raises_is_logged(caplog: pytest.LogCaptureFixture, is_async: bool) -> None:
    def fail() -> None:
        raise ValueError("disk full")

    async def fail_later() -> None:
        fail()

    failures: list[Exception] = []
    assert not await finish(fail_later if is_async else fail, "storing", RateLimitedLog(LOGGER), failed=failures.append)
    assert [str(failure) for failure in failures] == ["disk full"]
    [record] = caplog.records
    assert (record.name, record.getMessage()) == ("clstr.test", "storing failed, or took longer than 10 s")
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "disk full"


def test_what_takes_too_long_is_cancelled_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        now = asyncio.get_running_loop().time
        before = now()
        assert not await finish(hang, "storing", RateLimitedLog(LOGGER))
        assert now() - before == pytest.approx(STOP_TIMEOUT, abs=0.01)
        failures: list[Exception] = []
        assert not await finish(hang, "storing", RateLimitedLog(LOGGER), seconds=3, failed=failures.append)
        assert now() - before == pytest.approx(STOP_TIMEOUT + 3, abs=0.01)
        assert [type(failure) for failure in failures] == [TimeoutError]

    in_virtual_time(run())
    assert [record.getMessage() for record in caplog.records] == [
        "storing failed, or took longer than 10 s",
        "storing failed, or took longer than 3 s",
    ]


async def test_a_cancellation_of_its_own_making_is_logged_and_one_of_its_task_is_passed_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    await finish(cancel_itself, "storing", RateLimitedLog(LOGGER))
    assert [record.getMessage() for record in caplog.records] == ["storing cancelled itself"]
    task = asyncio.create_task(finish(asyncio.Event().wait, "storing", RateLimitedLog(LOGGER)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("ignores", [False, True])
def test_cancelled_tasks_are_waited_for_but_not_for_ever(caplog: pytest.LogCaptureFixture, ignores: bool) -> None:
    async def work(let_go: asyncio.Event) -> None:
        try:
            await let_go.wait()
        finally:
            while ignores and not let_go.is_set():
                await let_go.wait()

    async def run() -> None:
        let_go = asyncio.Event()
        tasks = [asyncio.create_task(work(let_go)) for _ in range(2)]
        await asyncio.sleep(0)
        before = asyncio.get_running_loop().time()
        await cancel_all([], "tasks", LOGGER)
        await cancel_all(tasks, "tasks", LOGGER)
        waited = asyncio.get_running_loop().time() - before
        assert waited == pytest.approx(STOP_TIMEOUT if ignores else 0, abs=0.01)
        let_go.set()
        await asyncio.wait(tasks)

    in_virtual_time(run())
    assert [record.getMessage() for record in caplog.records] == ["2 tasks ignore cancellation"] * ignores
