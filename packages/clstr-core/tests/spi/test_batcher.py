"""One write for all that one tick adds."""

from __future__ import annotations

import asyncio

import pytest

from clstr.spi import Batcher
from clstr.spi._links.batcher import MANY


@pytest.fixture
def written() -> list[list[int]]:
    return []


@pytest.fixture
async def batcher(written: list[list[int]]) -> Batcher[int]:
    return Batcher(asyncio.get_running_loop(), written.append)


async def test_what_one_tick_adds_is_written_once_and_in_order(batcher: Batcher[int], written: list[list[int]]) -> None:
    for item in range(5):
        batcher.add(item)
    assert written == []
    await asyncio.sleep(0)
    batcher.add(5)
    await asyncio.sleep(0)
    assert written == [[0, 1, 2, 3, 4], [5]]


async def test_a_stream_of_many_is_written_while_the_tick_goes_on(
    batcher: Batcher[int], written: list[list[int]]
) -> None:
    for item in range(2 * MANY + 3):
        batcher.stream(item)
    assert [len(items) for items in written] == [MANY, MANY]
    await asyncio.sleep(0)
    assert [item for items in written for item in items] == list(range(2 * MANY + 3))
    assert len(written) == 3


async def test_flushing_writes_now_and_the_tick_writes_only_the_rest(
    batcher: Batcher[int], written: list[list[int]]
) -> None:
    batcher.add(1)
    batcher.flush()
    assert written == [[1]]
    batcher.add(2)
    await asyncio.sleep(0)
    assert written == [[1], [2]]


async def test_nothing_is_never_written(batcher: Batcher[int], written: list[list[int]]) -> None:
    batcher.flush()
    batcher.add(1)
    batcher.flush()
    await asyncio.sleep(0)
    assert written == [[1]]


async def test_items_added_by_the_write_go_into_the_next_tick() -> None:
    written: list[list[int]] = []

    def write(items: list[int]) -> None:
        written.append(items)
        if len(written) < 3:
            own.add(len(written))

    own = Batcher(asyncio.get_running_loop(), write)
    own.add(0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert written == [[0], [1], [2]]
