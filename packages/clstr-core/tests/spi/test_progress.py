"""`clstr.spi._links.progress`: slow is not dead."""

from __future__ import annotations

import asyncio

import pytest

from clstr.spi import ProgressCheck, answered_while_moving
from spi.virtual_time import VirtualLoop


def test_movement_proves_life_and_three_looks_without_it_are_death() -> None:
    check = ProgressCheck(10)
    assert [check.look(progress) for progress in (10, 10, 11, 11, 11, 11)] == [True, True, True, True, True, False]


def test_how_many_looks_it_takes_can_be_chosen() -> None:
    assert not ProgressCheck(0, looks=1).look(0)


def new_future() -> asyncio.Future[object]:
    return asyncio.get_running_loop().create_future()


def new_loss() -> asyncio.Future[Exception]:
    return asyncio.get_running_loop().create_future()


async def test_an_answer_that_comes_is_not_waited_for_any_longer(clock: VirtualLoop) -> None:
    answer = new_future()
    clock.call_later(2.5, answer.set_result, None)
    assert await answered_while_moving(answer, new_loss(), progress=lambda: 0, patience=3)
    assert clock.time() == pytest.approx(1002.5)


async def test_a_mute_connection_is_given_up_when_patience_is_over(clock: VirtualLoop) -> None:
    assert not await answered_while_moving(new_future(), new_loss(), progress=lambda: 7, patience=3)
    assert clock.time() == pytest.approx(1003)


async def test_bytes_that_move_gain_time(clock: VirtualLoop) -> None:
    answer = new_future()
    clock.call_later(100, answer.set_result, None)
    moved = iter(range(10**6))
    assert await answered_while_moving(answer, new_loss(), progress=lambda: next(moved), patience=3)


async def test_a_loss_ends_the_waiting(clock: VirtualLoop) -> None:
    lost = new_loss()
    clock.call_later(1, lost.set_result, ConnectionResetError())
    assert not await answered_while_moving(new_future(), lost, progress=lambda: int(clock.time()), patience=30)
    assert clock.time() == pytest.approx(1001)


async def test_a_blocked_loop_is_not_taken_for_a_mute_peer(clock: VirtualLoop) -> None:
    """The answer is there when the loop goes on, but is read only after the first look."""
    answer = new_future()
    asking = asyncio.ensure_future(answered_while_moving(answer, new_loss(), progress=lambda: 0, patience=3))
    await asyncio.sleep(0)
    clock.jump(60)
    clock.call_later(0.5, answer.set_result, None)
    assert await asking
