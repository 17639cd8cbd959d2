"""The bytes that a socket has not sent, and when there is room again."""

from __future__ import annotations

import asyncio

import pytest

from clstr.spi import WriteBudget
from spi.fakes import armed_timers
from spi.virtual_time import VirtualLoop


class Socket:
    def __init__(self) -> None:
        self.unsent = 0

    def measure(self) -> int:
        return self.unsent


@pytest.fixture
def rooms() -> list[str]:
    return []


@pytest.fixture
async def budget(rooms: list[str]) -> WriteBudget:
    return WriteBudget(lambda: rooms.append("room"), 1000)


@pytest.fixture
async def socket(budget: WriteBudget) -> Socket:
    socket = Socket()
    budget.connected(socket.measure)
    return socket


async def test_requests_may_use_all_of_it_and_answers_a_half(budget: WriteBudget, socket: Socket) -> None:
    socket.unsent = 600
    budget.written()
    assert budget.has_room_for_request(400)
    assert not budget.has_room_for_request(401)
    assert not budget.has_room_for_answer()
    budget.disconnected()


async def test_what_the_socket_has_sent_since_the_last_write_makes_room(budget: WriteBudget, socket: Socket) -> None:
    budget.queued_bytes += 900
    assert not budget.has_room_for_request(200)
    socket.unsent = 900
    budget.written()
    assert not budget.has_room_for_request(200)
    socket.unsent = 500
    assert budget.has_room_for_request(200)
    assert budget.has_room_for_answer()


async def test_it_says_when_answers_have_room_again(
    budget: WriteBudget, socket: Socket, rooms: list[str], clock: VirtualLoop
) -> None:
    """At a quarter: at a half, one answer would fill it again."""
    socket.unsent = 1000
    budget.written()
    assert not budget.has_room_for_answer()
    assert not budget.has_room_for_answer()
    assert len(armed_timers()) == 1
    await asyncio.sleep(1)
    socket.unsent = 251
    await asyncio.sleep(1)
    assert rooms == []
    socket.unsent = 250
    await asyncio.sleep(1)
    assert rooms == ["room"]
    assert armed_timers() == []


async def test_a_connection_that_ends_is_watched_no_longer(
    budget: WriteBudget, socket: Socket, rooms: list[str], clock: VirtualLoop
) -> None:
    socket.unsent = 1000
    budget.written()
    assert not budget.has_room_for_answer()
    budget.disconnected()
    assert armed_timers() == []
    assert budget.has_room_for_answer()
    budget.connected(socket.measure)
    assert budget.has_room_for_answer()  # nothing of ours waits in the new one yet
    assert rooms == []
