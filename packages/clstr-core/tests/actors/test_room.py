"""So many may live at a time; the place of one that leaves is the next one's."""

from __future__ import annotations

import asyncio

from clstr._actors.room import Room


async def ticks() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_without_a_size_nobody_waits() -> None:
    room = Room(None)
    for _ in range(100):
        await room.enter()
    assert room.taken == 100
    room.leave()
    assert room.taken == 99


async def test_those_that_wait_enter_in_order_of_arrival_one_for_each_that_leaves() -> None:
    room = Room(1)
    assert room.try_enter()
    assert not room.try_enter()
    waiting = [asyncio.create_task(room.enter()) for _ in range(3)]
    await ticks()
    for entered in (1, 2):
        room.leave()
        await ticks()
        assert [task.done() for task in waiting] == [True] * entered + [False] * (3 - entered)
        assert room.taken == 1
    waiting[2].cancel()
    await ticks()
    room.leave()
    assert room.taken == 0


async def test_a_place_that_was_given_to_one_that_is_cancelled_is_the_next_one_s() -> None:
    room = Room(1)
    assert room.try_enter()
    first, second = (asyncio.create_task(room.enter()) for _ in range(2))
    await ticks()
    room.leave()
    first.cancel()
    await asyncio.wait_for(second, 5)
    assert first.cancelled()
    assert room.taken == 1
