"""Large messages that come in pieces, over links that are slow, and to loops that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

import clstr
from clstr.spi import Engine
from clstr_zmq._counters import Counters
from clstr_zmq._inbox import Inbox
from clstr_zmq._link import ZmqLink
from clstr_zmq._pieces import MAX_PIECE, PIECE_BYTES, Pieces, split
from clstr_zmq._sockets import CURVE_BYTES, UNREAD_MARK, Sockets, set_nothing

Connect = Callable[..., Awaitable[clstr.Transport]]
NewPort = Callable[[], int]
SIZE = 1024 * 1024
STEP = 128 * 1024  # bytes between two heartbeats: one piece at least has come whole


@given(st.lists(st.sampled_from([1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, 200_000])))
def test_messages_of_every_size_arrive_whole(sizes: list[int]) -> None:
    pieces = Pieces(2**20)
    for number, size in enumerate(sizes):
        message = b"\0" + bytes([number % 256]) * (size - 1)
        sent = list(split(message))
        assert all(len(each) <= MAX_PIECE for each in sent)
        assert [bytes(pieces.add(each)) for each in sent] == [b""] * (len(sent) - 1) + [message]


def test_a_message_that_was_given_up_makes_room_for_the_next() -> None:
    pieces = Pieces(2**20)
    pieces.add(next(iter(split(b"\1" * SIZE))))
    *first, last = split(b"\2" * SIZE)
    assert not any(pieces.add(each) for each in first)
    assert pieces.add(last) == b"\2" * SIZE


def test_what_is_too_large_or_continues_nothing_is_refused() -> None:
    pieces = Pieces(100_000)
    for message in (b"\0" * 200_000, b"\0" * 100_001):
        for each in split(message):
            with pytest.raises(ValueError, match="does not follow the last one, or is too large"):
                pieces.add(each)
    first, second = split(b"\0" * 100_000)
    with pytest.raises(ValueError, match="does not follow"):
        pieces.add(second)
    pieces.add(first)
    with pytest.raises(ValueError, match="cut off"):
        pieces.add(first[:5])


class SlowLink:
    """Forwards to an inbox; large messages wait for `forward`, in either direction."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._may_forward = asyncio.Condition()
        self._bytes = 0

    async def forward(self, size: int) -> None:
        """Forward ``size`` bytes of large messages, or a read more; wait for them to come."""
        async with self._may_forward:
            self._bytes += size
            self._may_forward.notify_all()
            await self._may_forward.wait_for(lambda: self._bytes <= 0)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                if len(data) > 1000:  # of large messages
                    async with self._may_forward:
                        await self._may_forward.wait_for(lambda: self._bytes > 0)
                        self._bytes -= len(data)
                        self._may_forward.notify_all()
                writer.write(data)
                await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._port)
        for way in ((reader, there[1]), (there[0], writer)):
            self._tasks.add(asyncio.ensure_future(self._pump(*way)))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[int]:
        """Yield the port of the way in."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=16_384)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.parametrize(("up", "down"), [(SIZE, 1), (1, SIZE)])
async def test_a_large_message_on_a_slow_link_is_no_death(
    connect: Connect, new_port: NewPort, up: int, down: int
) -> None:
    """It takes many heartbeats; each piece that arrives shows that its sender lives."""
    port = new_port()
    link = SlowLink(port)

    async def handler(_: clstr.Envelope) -> bytes:
        return b"y" * down

    async with link.opened() as way:
        options = "heartbeat=3600"  # the test beats
        owner = await connect(f"zmq://?bind=tcp://127.0.0.1:{port}&advertise=127.0.0.1:{way}&{options}")
        await owner.subscribe([0], handler)
        client = await connect(f"zmq://127.0.0.1:{way}?{options}", drain_timeout=0)
        [guest], [outbox] = inbox_of(owner).guests, link_of(client)._directory
        envelope = clstr.Envelope(shard=0, type="t", data=b"x" * up)
        request = asyncio.create_task(client.request(envelope, timeout=3600))
        async with asyncio.timeout(30):
            for _ in range(SIZE // STEP - 1):
                inbox_of(owner).beat()  # each is asked for a word
                outbox.beat()
                await link.forward(STEP)
                while not (guest.was_heard and outbox._was_heard):  # noqa: ASYNC110 -- ZeroMQ's threads tell no event
                    await asyncio.sleep(0.001)
            assert not request.done()
            forwarding = asyncio.create_task(link.forward(2 * SIZE))
            assert await request == b"y" * down
            forwarding.cancel()


async def test_zeromq_keeps_little_for_a_loop_that_does_not_read(tmp_path: Path) -> None:
    """It counts messages: they must be small, and few."""
    got = asyncio.Semaphore(0)
    sockets = Sockets(Counters(), logging.getLogger("test"))
    try:
        # A UNIX socket: what the system buffers for TCP is the machine's choice, and may be tens of megabytes.
        wire, endpoint = sockets.router(f"ipc://{tmp_path}/a.sock", lambda _: got.release(), set_nothing)
        options = wire._socket
        assert options.getsockopt(zmq.RCVHWM) == UNREAD_MARK
        assert options.getsockopt(zmq.MAXMSGSIZE) == MAX_PIECE + CURVE_BYTES
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger, dealer.sndhwm, dealer.sndbuf = 0, 1, MAX_PIECE
            dealer.connect(endpoint)
            for _ in range(UNREAD_MARK):  # the loop does not run meanwhile
                assert dealer.poll(60_000, zmq.POLLOUT)
                dealer.send(b"x" * MAX_PIECE, zmq.DONTWAIT)
            sent = UNREAD_MARK
            while dealer.poll(100, zmq.POLLOUT) and sent < 2 * UNREAD_MARK:
                dealer.send(b"x" * MAX_PIECE, zmq.DONTWAIT)
                sent += 1
            assert sent < UNREAD_MARK + 16  # what is on its way: in ZeroMQ's two threads and the system
            async with asyncio.timeout(10):
                for _ in range(sent):
                    await got.acquire()  # nothing is lost
    finally:
        sockets.close()
        await sockets.wait_closed()


def link_of(transport: clstr.Transport) -> ZmqLink:
    assert isinstance(transport, Engine)
    assert isinstance(transport.link, ZmqLink)
    return transport.link


def inbox_of(transport: clstr.Transport) -> Inbox:
    inbox = link_of(transport)._inbox
    assert inbox is not None
    return inbox
