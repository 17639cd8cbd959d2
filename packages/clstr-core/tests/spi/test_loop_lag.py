"""`clstr.spi._loop_lag`: a blocked loop is measured, counted and told, without payloads."""

from __future__ import annotations

import asyncio
import logging

import pytest

from clstr._messages.envelope import Envelope
from clstr.spi._counters import Counters
from clstr.spi._loop_lag import INTERVAL, QUIET_SECONDS, THRESHOLD, LoopLag
from spi.fakes import OpenEngine, Stubborn, Worker, armed_timers, linked, message, ticks
from spi.virtual_time import VirtualLoop


class Work:
    """What a `LoopLag` asks the engine."""

    def __init__(self) -> None:
        self.is_there = True
        self.running: list[str] = []

    def is_needed(self) -> bool:
        return self.is_there

    def names(self, count: int) -> list[str]:
        return self.running[:count]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def lag(clock: VirtualLoop, work: Work, counters: Counters) -> LoopLag:
    return LoopLag(clock, counters, logging.getLogger("clstr.test"), is_needed=work.is_needed, running=work.names)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "event loop" in record.getMessage()]


async def block(clock: VirtualLoop, seconds: float) -> None:
    """Block the loop, and let it notice."""
    clock.jump(seconds)
    await asyncio.sleep(INTERVAL)


async def test_a_late_timer_is_counted_and_told(
    lag: LoopLag, counters: Counters, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    lag.arm()
    await block(clock, INTERVAL + 1.5)
    lag.stop()
    assert counters.loop_stalls == 1
    assert counters.longest_loop_lag == pytest.approx(1.5)
    assert lines(caplog) == [
        "the event loop was blocked, or the process did not run, for 1.50 s; move blocking calls to a thread"
    ]


async def test_a_short_lag_is_measured_but_not_told(
    lag: LoopLag, counters: Counters, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    lag.arm()
    await block(clock, INTERVAL + THRESHOLD / 2)
    lag.stop()
    assert counters.loop_stalls == 0
    assert counters.longest_loop_lag == pytest.approx(THRESHOLD / 2)
    assert lines(caplog) == []


async def test_time_without_work_is_not_measured(
    lag: LoopLag, work: Work, counters: Counters, clock: VirtualLoop
) -> None:
    lag.arm()
    work.is_there = False
    await asyncio.sleep(2 * INTERVAL)
    assert not lag.is_armed
    assert armed_timers() == []
    await block(clock, 10.0)
    assert counters.loop_stalls == 0


async def test_a_loop_that_is_blocked_again_and_again_is_told_at_a_bounded_rate(
    lag: LoopLag, counters: Counters, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    lag.arm()
    for _ in range(4):
        await block(clock, INTERVAL + 1.0)
    assert len(lines(caplog)) == 1
    await asyncio.sleep(QUIET_SECONDS)
    await block(clock, INTERVAL + 1.0)
    lag.stop()
    assert counters.loop_stalls == 5
    assert "(3 more since the last such line)" in lines(caplog)[1]


async def test_a_step_that_blocked_is_named_and_no_other(
    lag: LoopLag, work: Work, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    lag.arm()
    work.running = ["shard 3, type 'innocent'"]
    lag.recent["innocent too"] = 4
    lag.stepped(Envelope(shard=1, type="quick"), 0.1)
    lag.stepped(Envelope(shard=2, type="slow", data=b"secret"), 1.75)
    await block(clock, 2.0)
    lag.stop()
    [line] = lines(caplog)
    assert "by the handler of shard 2, type 'slow' (1.75 s); move" in line
    assert "innocent" not in line
    assert "secret" not in line


async def test_at_most_three_suspects_are_named(
    lag: LoopLag, work: Work, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    lag.arm()
    lag.recent.update(a=1, b=2)
    work.running = ["shard 3, type 'c'", "shard 4, type 'd'"]
    await block(clock, 2.0)
    lag.stop()
    [line] = lines(caplog)
    assert "while these handlers ran: shard 1, type 'a'; shard 2, type 'b'; shard 3, type 'c'; ...; move" in line


async def test_what_ran_before_the_last_measurement_is_no_suspect(
    lag: LoopLag, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    lag.arm()
    lag.recent["early"] = 1
    await asyncio.sleep(1.5 * INTERVAL)
    await block(clock, 2.0)
    lag.stop()
    assert "early" not in lines(caplog)[0]


# In an engine.


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_handler_that_blocks_the_loop_is_named(
    open_engine: OpenEngine, clock: VirtualLoop, caplog: pytest.LogCaptureFixture, turns: int
) -> None:
    """In its first step, or in a later one."""
    engine = await open_engine()

    async def handler(_: Envelope) -> bytes:
        await ticks(turns)
        clock.jump(3.0)
        return b""

    await engine.subscribe([1], handler)
    linked(engine).deliver("blocking", data=b"secret")
    await asyncio.sleep(INTERVAL)
    [line] = lines(caplog)
    assert "shard 1, type 'blocking'" in line
    assert "secret" not in line
    assert engine.counters.loop_stalls == 1
    assert engine.counters.longest_loop_lag == pytest.approx(3.0 - INTERVAL)


async def test_a_loop_that_is_blocked_while_a_request_waits_is_told(
    open_engine: OpenEngine, clock: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await open_engine()
    request = asyncio.ensure_future(engine.request(message(), timeout=60.0))
    await asyncio.sleep(10 * INTERVAL)
    await block(clock, 2.0)
    linked(engine).answer(linked(engine).sent[0])
    await request
    assert len(lines(caplog)) == 1


async def test_a_handler_that_waits_is_no_lag(open_engine: OpenEngine, caplog: pytest.LogCaptureFixture) -> None:
    engine, worker = await open_engine(), Worker()
    await engine.subscribe([1], worker)
    linked(engine).deliver("waiting")
    await asyncio.sleep(20.0)
    await worker.finish("waiting")
    assert lines(caplog) == []
    assert engine.counters.longest_loop_lag == pytest.approx(0.0, abs=0.01)


async def test_a_handler_that_ignores_its_cancellation_is_not_measured_for_ever(
    open_engine: OpenEngine, stubborn: Stubborn
) -> None:
    """Else a program on virtual time would never notice that nothing can happen."""
    engine = await open_engine(handler_timeout=1.0)
    await engine.subscribe([1], stubborn)
    linked(engine).deliver()
    await asyncio.sleep(0)
    assert engine.lag.is_armed
    await asyncio.sleep(2.0)
    assert not engine.lag.is_armed
