"""What the sockets promise because of their options."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest
import zmq

import clstr
from clstr_zmq._counters import Counters
from clstr_zmq._dealer import Dealer
from clstr_zmq._sockets import Sockets, set_nothing

NewPort = Callable[[], int]


class User:
    """Notes what becomes of a connection."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()

    def receive(self, frames: list[zmq.Frame]) -> None:
        self.messages.put_nowait(frames[0].bytes)

    def lost(self, reason: str) -> None:
        self.events.put_nowait(f"lost: {reason}")

    async def event(self) -> str:
        async with asyncio.timeout(10):
            return await self.events.get()


async def outcome(dealer: Dealer) -> str | None:
    """Return why there is no connection; ``None`` if there is one."""
    async with asyncio.timeout(10):
        problem = await dealer.opened
    return None if problem is None else str(problem)


@pytest.fixture
async def sockets() -> AsyncIterator[Sockets]:
    made = Sockets(Counters(), logging.getLogger("test"))
    yield made
    made.close()
    await made.wait_closed()


async def test_nothing_is_kept_for_an_inbox_that_is_not_there(sockets: Sockets, new_port: NewPort) -> None:
    """Whoever binds there later gets none of it, and no connection by itself."""
    port = new_port()
    dealer = sockets.dealer(f"tcp://127.0.0.1:{port}", set_nothing)
    assert not dealer.send(b"early")
    assert await outcome(dealer) == "nobody listens there"
    got: asyncio.Queue[bytes] = asyncio.Queue()
    sockets.router(f"tcp://127.0.0.1:{port}", lambda frames: got.put_nowait(frames[1].bytes), set_nothing)
    assert not dealer.send(b"late")
    second = sockets.dealer(f"tcp://127.0.0.1:{port}", set_nothing)
    assert await outcome(second) is None
    assert second.send(b"now")
    async with asyncio.timeout(10):
        assert await got.get() == b"now"
    assert got.empty()


async def test_a_connection_that_ends_is_not_made_again(sockets: Sockets, new_port: NewPort) -> None:
    port, user = new_port(), User()
    other = Sockets(Counters(), logging.getLogger("test"))
    other.router(f"tcp://127.0.0.1:{port}", lambda frames: None, set_nothing)
    dealer = sockets.dealer(f"tcp://127.0.0.1:{port}", set_nothing)
    assert await outcome(dealer) is None
    dealer.attach(user)
    other.close()
    await other.wait_closed()
    assert await user.event() == "lost: the connection broke"
    late = User()
    dealer.attach(late)
    assert await late.event() == "lost: the connection broke"
    assert not dealer.send(b"to nobody")
    dealer.close()
    dealer.close()


async def test_an_endpoint_that_zeromq_does_not_understand_is_an_error(sockets: Sockets) -> None:
    with pytest.raises(clstr.TransportUnavailableError, match="cannot connect to tcp://no such host:1: Invalid"):
        sockets.dealer("tcp://no such host:1", set_nothing)


async def test_sockets_that_were_never_opened_can_be_closed(sockets: Sockets) -> None:
    await sockets.wait_closed()
