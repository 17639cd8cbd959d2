"""Waiting for a coroutine that may hang, fail, or ignore its cancellation."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from clstr.spi._bounded import _unfinished, bounded
from spi.fakes import Stubborn, failing, hang, ticks
from spi.virtual_time import START, VirtualLoop

logger = logging.getLogger("test")


async def test_work_that_ends_in_time_is_awaited_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    done = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(True)

    await bounded(work(), 5, "the work", logger)
    assert done == [True]
    assert caplog.messages == []
    assert not _unfinished


async def test_work_that_hangs_is_cancelled_and_named(caplog: pytest.LogCaptureFixture, clock: VirtualLoop) -> None:
    await bounded(hang(), 5, "the work", logger)
    assert clock.time() == START + 5
    assert caplog.messages == ["the work did not end within 5 s"]
    await ticks()
    assert not _unfinished


async def test_work_that_ignores_cancellation_is_left_alone(
    stubborn: Stubborn, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        await stubborn()

    await bounded(work(), 5, "the work", logger)
    assert clock.time() == START + 5
    await ticks()
    assert len(_unfinished) == 1
    stubborn.let_go.set()
    await ticks()
    assert not _unfinished


async def test_a_failure_is_logged_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        await failing(OSError("broken pipe"))()

    await bounded(work(), 5, "the work", logger)
    (record,) = caplog.records
    assert record.getMessage() == "the work failed"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)


async def test_work_that_cancels_itself_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    await bounded(work(), 5, "the work", logger)
    assert caplog.messages == []


async def test_work_goes_on_when_the_caller_is_cancelled(stubborn: Stubborn) -> None:
    done = []

    async def work() -> None:
        await stubborn.let_go.wait()
        done.append(True)

    caller = asyncio.ensure_future(bounded(work(), 5, "the work", logger))
    await ticks()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    stubborn.let_go.set()
    await ticks()
    assert done == [True]


async def test_a_failure_after_the_time_is_over_is_no_noise(
    clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        try:
            await hang()
        finally:
            raise OSError("broken pipe")

    await bounded(work(), 5, "the work", logger)
    await ticks()
    gc.collect()
    assert caplog.messages == ["the work did not end within 5 s"]
