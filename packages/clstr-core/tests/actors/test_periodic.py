"""Periodic work: a timer between its runs, a task in a turn while it runs."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import clstr_testing
from clstr._actors.actor import Actor
from clstr._actors.periodic import WORK_TIMEOUT, Timer
from clstr._actors.turns import Turns
from clstr._context import Current, current
from clstr._rate_limited_log import RateLimitedLog


class Worker(Actor):
    """Notes when it works, and for how long it is to."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.inside: list[Current | None] = []
        self.lasts = 0.0
        self.failures: list[Exception] = []
        self.error: BaseException | None = None

    async def work(self) -> None:
        self.begun.append(round(asyncio.get_running_loop().time()))
        self.inside.append(current())
        await asyncio.sleep(self.lasts)
        if self.error is not None:
            raise self.error


def timer_of(worker: Worker, turns: Turns, is_held: Callable[[], bool] = lambda: True) -> Timer:
    @contextmanager
    def in_turn() -> Iterator[None]:
        try:
            yield
        finally:
            turns.end()

    return Timer(
        worker,
        "work",
        5.0,
        turns,
        in_turn=in_turn,
        is_held=is_held,
        failed=worker.failures.append,
        context=contextvars.copy_context(),
        log=RateLimitedLog(logging.getLogger("clstr.actor")),
    )


def in_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(work)


def test_seconds_are_counted_from_the_end_of_a_run_and_there_is_no_task_between() -> None:
    async def run() -> None:
        worker, turns = Worker(), Turns()
        worker.lasts = 3.0
        timer = timer_of(worker, turns)
        for _ in range(2):
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await asyncio.sleep(6)
            assert not turns.try_take()
            assert len(asyncio.all_tasks()) == 2
            await asyncio.sleep(2.5)
            assert turns.try_take()
            turns.end()
        assert worker.begun == [5, 13]
        assert worker.inside == [None, None]
        timer.stop()
        await asyncio.sleep(20)
        assert worker.begun == [5, 13]

    in_virtual_time(run())


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()], ids=["error", "its own cancellation"])
def test_a_run_that_fails_is_logged_and_ends_its_turn(caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    async def run() -> None:
        worker, turns = Worker(), Turns()
        worker.error = error
        timer = timer_of(worker, turns)
        await asyncio.sleep(11)
        assert (worker.begun, turns.is_taken) == ([5, 10], False)
        timer.stop()

    in_virtual_time(run())
    assert [record.name for record in caplog.records] == ["clstr.actor"] * 2
    assert caplog.records[0].getMessage().startswith("periodic work of a Worker ")


def test_a_run_that_hangs_is_cancelled_after_its_time(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        worker, turns = Worker(), Turns()
        worker.lasts = 1e6
        timer = timer_of(worker, turns)
        await asyncio.sleep(4 + WORK_TIMEOUT)
        assert not turns.try_take()
        await asyncio.sleep(2)
        assert turns.try_take()
        turns.end()
        await asyncio.sleep(5)
        assert worker.begun == [5, 10 + WORK_TIMEOUT]
        timer.stop()
        await asyncio.sleep(0)
        assert turns.try_take()

    in_virtual_time(run())
    [record] = caplog.records
    assert record.getMessage() == "periodic work of a Worker failed, or took longer than 30 s"


def test_a_run_that_is_cancelled_for_others_comes_again_and_one_that_is_sent_away_too() -> None:
    async def run() -> None:
        worker, turns = Worker(), Turns()
        worker.lasts = 1e6
        timer = timer_of(worker, turns)
        await asyncio.sleep(6)
        timer.cancel_run()
        await asyncio.sleep(0)
        assert turns.try_take()
        await asyncio.sleep(6)
        assert turns.waiting == 1
        turns.send_away()
        turns.end()
        await asyncio.sleep(6)
        assert worker.begun == [5, 17]
        timer.stop()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.sleep(20)
        assert worker.begun == [5, 17]

    in_virtual_time(run())


def test_while_the_shard_is_not_held_runs_are_skipped_even_those_that_wait_for_their_turn() -> None:
    async def run() -> None:
        held = [True]
        worker, turns = Worker(), Turns()
        timer = timer_of(worker, turns, lambda: held[0])
        await asyncio.sleep(9)
        assert turns.try_take()
        await asyncio.sleep(2)
        assert turns.waiting == 1
        held[0] = False
        turns.end()
        await asyncio.sleep(10)
        assert worker.begun == [5]
        assert not turns.is_taken
        held[0] = True
        await asyncio.sleep(5)
        assert len(worker.begun) == 2
        timer.stop()

    in_virtual_time(run())


def test_a_task_factory_that_fails_costs_no_run(caplog: pytest.LogCaptureFixture) -> None:
    def refuse_to_make(_loop: object, _work: object, **_options: object) -> asyncio.Task[Any]:  # Any: as in asyncio
        raise RuntimeError("no tasks today")

    async def run() -> None:
        worker = Worker()
        timer = timer_of(worker, Turns())
        asyncio.get_running_loop().set_task_factory(refuse_to_make)
        await asyncio.sleep(6)
        asyncio.get_running_loop().set_task_factory(None)
        assert worker.begun == [5]
        timer.stop()

    in_virtual_time(run())
    assert "the task factory of the event loop failed" in caplog.text
