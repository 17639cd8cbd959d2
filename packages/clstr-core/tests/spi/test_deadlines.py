"""The timer wheel: never early, 10 ms late at most, one armed timer, nothing kept."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr.spi._deadlines import GRANULARITY, SWEEP_BUCKETS, Deadlines
from spi.fakes import armed_timers, ticks
from spi.virtual_time import START, VirtualLoop

Log = list[tuple[float, "Item"]]


class Item:
    def __init__(self, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._loop = loop

    def expire(self) -> None:
        self._log.append((self._loop.time(), self))


@pytest.fixture
def log() -> Log:
    return []


@pytest.fixture
async def deadlines() -> Deadlines:
    return Deadlines(asyncio.get_running_loop())


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0, 1e6))
def test_each_item_expires_once_never_early_and_at_most_10_ms_late(delays: list[float], start: float) -> None:
    loop = VirtualLoop()
    loop.jump(start)
    now = loop.time()
    log: Log = []
    due = {}
    deadlines = Deadlines(loop)
    for delay in delays:
        item = Item(log, loop)
        due[item] = now + delay
        deadlines.add(now + delay, item)
    loop.run_until_complete(asyncio.sleep(101))
    loop.close()
    assert len(log) == len(delays)
    assert {item for _, item in log} == due.keys()
    rounding = 1e-8  # seconds: floats have no more at 1e6, and the loop's resolution is of the same order
    assert all(due[item] - rounding <= when <= due[item] + GRANULARITY + rounding for when, item in log)
    assert len(deadlines) == 0


async def test_a_discarded_item_does_not_expire(deadlines: Deadlines, log: Log, clock: VirtualLoop) -> None:
    one, other = Item(log, clock), Item(log, clock)
    tick = deadlines.add(START + 1, one)
    assert deadlines.add(START + 1, other) == tick
    assert len(deadlines) == 2
    deadlines.discard(tick, one)
    await asyncio.sleep(2)
    assert [item for _, item in log] == [other]


async def test_discarding_what_has_expired_does_nothing(deadlines: Deadlines, log: Log, clock: VirtualLoop) -> None:
    item = Item(log, clock)
    tick = deadlines.add(START + 1, item)
    await asyncio.sleep(2)
    deadlines.discard(tick, item)
    assert log == [(START + 1, item)]


async def test_an_earlier_deadline_re_arms_the_only_timer(deadlines: Deadlines, log: Log, clock: VirtualLoop) -> None:
    late, early, latest = (Item(log, clock) for _ in range(3))
    deadlines.add(START + 5, late)
    deadlines.add(START + 1, early)
    deadlines.add(START + 9, latest)
    assert len(armed_timers()) == 1
    await asyncio.sleep(10)
    assert log == [(START + 1, early), (START + 5, late), (START + 9, latest)]


async def test_a_loop_that_was_blocked_catches_up_in_order(deadlines: Deadlines, log: Log, clock: VirtualLoop) -> None:
    items = [Item(log, clock) for _ in range(5)]
    for index, item in enumerate(items):
        deadlines.add(START + 1 + index, item)
    clock.jump(4.5)
    await ticks()
    assert [item for _, item in log] == items[:4]


async def test_what_is_due_in_one_tick_expires_in_the_order_in_which_it_came(
    deadlines: Deadlines, log: Log, clock: VirtualLoop
) -> None:
    """Not in the order of addresses: a run of the simulation would not repeat."""
    items = [Item(log, clock) for _ in range(100)]
    for item in reversed(items):
        deadlines.add(clock.time() + 1, item)
    await asyncio.sleep(1.1)
    assert [item for _, item in log] == items[::-1]


async def test_when_nothing_is_left_the_timer_runs_out_once(deadlines: Deadlines, log: Log, clock: VirtualLoop) -> None:
    item = Item(log, clock)
    deadlines.discard(deadlines.add(START + 1, item), item)
    assert len(armed_timers()) == 1
    await asyncio.sleep(2)
    assert armed_timers() == []
    deadlines.add(START + 3, item)
    await asyncio.sleep(2)
    assert log == [(START + 3, item)]


async def test_an_item_may_enter_another_while_it_expires(deadlines: Deadlines, log: Log, clock: VirtualLoop) -> None:
    class Again(Item):
        def expire(self) -> None:
            super().expire()
            deadlines.add(clock.time() + 1, Item(log, clock))

    deadlines.add(START + 1, Again(log, clock))
    await asyncio.sleep(5)
    assert [when for when, _ in log] == [START + 1, START + 2]


async def test_a_deadline_in_the_past_expires_in_the_next_tick(
    deadlines: Deadlines, log: Log, clock: VirtualLoop
) -> None:
    item = Item(log, clock)
    deadlines.add(START - 5, item)
    await ticks()
    assert log == [(START, item)]


async def test_when_it_is_retired_no_timer_outlives_the_last_item(
    deadlines: Deadlines, log: Log, clock: VirtualLoop
) -> None:
    one, other, last = (Item(log, clock) for _ in range(3))
    tick = deadlines.add(START + 1, one)
    deadlines.add(START + 2, other)
    deadlines.retire()
    deadlines.discard(tick, one)
    assert len(armed_timers()) == 1
    await asyncio.sleep(3)
    assert log == [(START + 2, other)]
    assert armed_timers() == []
    tick = deadlines.add(START + 9, last)
    deadlines.discard(tick, last)
    assert armed_timers() == []
    deadlines.discard(tick, last)
    deadlines.retire()


async def test_empty_buckets_of_long_timeouts_are_swept_and_full_ones_kept(
    deadlines: Deadlines, log: Log, clock: VirtualLoop
) -> None:
    kept = [Item(log, clock) for _ in range(10)]
    for index, item in enumerate(kept):
        deadlines.add(START + 3600 + index, item)
    item = Item(log, clock)
    for index in range(10 * SWEEP_BUCKETS):
        deadlines.discard(deadlines.add(START + 10 + index, item), item)
    assert len(deadlines._buckets) <= SWEEP_BUCKETS + 1
    assert len(deadlines) == len(kept)
    await asyncio.sleep(4000)
    assert [item for _, item in log] == kept
