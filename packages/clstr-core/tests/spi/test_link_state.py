"""Up, down, lost for good, closed: and who waits for what."""

from __future__ import annotations

import asyncio
import logging
import math

import pytest

from clstr.errors import TransportClosedError, TransportUnavailableError
from clstr.spi._counters import Counters
from clstr.spi._link_state import LinkState
from spi.fakes import ticks
from spi.virtual_time import START, VirtualLoop

LOST = OSError("connection reset")


@pytest.fixture
async def state() -> LinkState:
    return LinkState(asyncio.get_running_loop(), 2.0, logging.getLogger("test"), Counters())


async def test_it_begins_down(state: LinkState) -> None:
    assert not state.is_up


async def test_a_link_that_is_up_is_not_waited_for(state: LinkState) -> None:
    state.up()
    assert state.is_up
    assert await state.wait_up(math.inf)


async def test_waiting_ends_when_the_link_is_up(state: LinkState) -> None:
    waiting = asyncio.ensure_future(state.wait_up(math.inf))
    await ticks()
    state.up()
    assert await waiting


async def test_a_link_that_only_flickers_is_not_up(state: LinkState, clock: VirtualLoop) -> None:
    """It is down again before those who wait get their turn: they wait on."""
    waiting = asyncio.ensure_future(state.wait_up(math.inf))
    await ticks()
    state.up()
    state.down(LOST, fatal=False)
    await ticks()
    assert not waiting.done()
    state.up()
    assert await waiting


async def test_after_reconnect_wait_the_cause_is_told(state: LinkState, clock: VirtualLoop) -> None:
    state.up()
    state.down(LOST, fatal=False)
    with pytest.raises(TransportUnavailableError, match="down: connection reset") as caught:
        await state.wait_up(START + 60)
    assert clock.time() == START + 2
    assert caught.value.__cause__ is LOST
    assert not caught.value.maybe_executed


async def test_a_deadline_before_reconnect_wait_comes_first(state: LinkState, clock: VirtualLoop) -> None:
    assert not await state.wait_up(START + 1)
    assert clock.time() == START + 1


async def test_a_link_that_is_lost_for_good_is_not_waited_for(state: LinkState, clock: VirtualLoop) -> None:
    waiting = asyncio.ensure_future(state.wait_up(math.inf))
    await ticks()
    state.down(LOST, fatal=True)
    for each in (waiting, asyncio.ensure_future(state.wait_up(math.inf))):
        with pytest.raises(TransportUnavailableError, match="lost for good, open a new transport: connection reset"):
            await each
    assert clock.time() == START


async def test_what_is_lost_for_good_stays_lost(state: LinkState) -> None:
    state.down(LOST, fatal=True)
    state.up()
    assert not state.is_up
    state.down(OSError("later"), fatal=False)
    with pytest.raises(TransportUnavailableError, match="lost for good"):
        await state.wait_up(math.inf)


async def test_closing_ends_every_wait(state: LinkState, clock: VirtualLoop) -> None:
    waiting = asyncio.ensure_future(state.wait_up(math.inf))
    await ticks()
    state.close()
    with pytest.raises(TransportClosedError):
        await waiting
    state.up()
    state.down(LOST, fatal=True)
    assert not state.is_up
    with pytest.raises(TransportClosedError):
        await state.wait_up(math.inf)
    assert clock.time() == START


async def test_a_link_that_was_lost_before_it_was_closed_says_so(state: LinkState) -> None:
    state.down(LOST, fatal=True)
    state.close()
    with pytest.raises(TransportUnavailableError, match="lost for good"):
        await state.wait_up(math.inf)


async def test_wait_ended_returns_when_closing_begins(state: LinkState) -> None:
    state.up()
    waiting = asyncio.ensure_future(state.wait_ended())
    state.down(LOST, fatal=False)
    await ticks()
    assert not waiting.done()
    state.end()
    await waiting


async def test_wait_ended_raises_what_ended_the_link(state: LinkState) -> None:
    waiting = asyncio.ensure_future(state.wait_ended())
    await ticks()
    state.down(LOST, fatal=True)
    with pytest.raises(TransportUnavailableError) as caught:
        await waiting
    assert caught.value.__cause__ is LOST


async def test_coming_and_going_is_logged_once_each(state: LinkState, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    state.up()
    state.up()
    assert caplog.messages == []
    state.down(LOST, fatal=False)
    state.up()
    state.up()
    state.down(LOST, fatal=True)
    assert caplog.messages == [
        "the link is down: connection reset",
        "the link is up again",
        "the link is lost for good: connection reset",
    ]


async def test_each_change_is_news(state: LinkState) -> None:
    """Also that a link that is up reaches more."""
    for change in (state.up, state.up, lambda: state.down(LOST, fatal=False), state.close):
        waiting = asyncio.ensure_future(state.wait_news(math.inf))
        await ticks()
        assert not waiting.done()
        change()
        assert await waiting


async def test_no_news_is_not_waited_for_beyond_its_time(state: LinkState, clock: VirtualLoop) -> None:
    assert not await state.wait_news(START + 1)
    assert clock.time() == START + 1
