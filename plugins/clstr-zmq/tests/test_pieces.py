"""Large messages that come in pieces, over links that are slow, and to loops that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

import clstr
from clstr_zmq._counters import Counters
from clstr_zmq._pieces import MAX_PIECE, PIECE_BYTES, Pieces, split
from clstr_zmq._sockets import CURVE_BYTES, UNREAD_MARK, Sockets, set_nothing

Connect = Callable[..., Awaitable[clstr.Transport]]
NewPort = Callable[[], int]
SIZE = 1024 * 1024


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


@asynccontextmanager
async def slow_link(port: int, step: asyncio.Semaphore) -> AsyncIterator[int]:
    """Forward to ``port``, at most 4 KiB for each release of ``step`` in either direction; yields the way in."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                if len(data) > 1000:  # of large messages
                    await step.acquire()
                writer.write(data)
                await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        tasks.update({asyncio.ensure_future(pump(reader, there[1])), asyncio.ensure_future(pump(there[0], writer))})

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=16_384)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("up", "down"), [(SIZE, 1), (1, SIZE)])
async def test_a_large_message_on_a_slow_link_is_no_death(
    connect: Connect, new_port: NewPort, up: int, down: int
) -> None:
    """It takes many heartbeats; each piece that arrives shows that its sender lives."""
    port, step = new_port(), asyncio.Semaphore(0)

    async def handler(_: clstr.Envelope) -> bytes:
        return b"y" * down

    async with slow_link(port, step) as way:
        owner = await connect(f"zmq://?bind=tcp://127.0.0.1:{port}&advertise=127.0.0.1:{way}&heartbeat=0.2")
        await owner.subscribe([0], handler)
        client = await connect(f"zmq://127.0.0.1:{way}?heartbeat=0.2", drain_timeout=0)
        envelope = clstr.Envelope(shard=0, type="t", data=b"x" * up)
        request = asyncio.create_task(client.request(envelope, timeout=60))
        while not request.done():
            step.release()
            await asyncio.sleep(0.008)  # 256 steps of this are ten heartbeats
        assert await request == b"y" * down


async def test_zeromq_keeps_little_for_a_loop_that_does_not_read(new_port: NewPort) -> None:
    """It counts messages: they must be small, and few."""
    port, got = new_port(), asyncio.Semaphore(0)
    sockets = Sockets(Counters(), logging.getLogger("test"))
    try:
        wire, endpoint = sockets.router(f"tcp://127.0.0.1:{port}", lambda _: got.release(), set_nothing)
        options = wire._socket
        assert options.getsockopt(zmq.RCVHWM) == UNREAD_MARK
        assert options.getsockopt(zmq.MAXMSGSIZE) == MAX_PIECE + CURVE_BYTES
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger, dealer.sndhwm = 0, 1
            dealer.connect(endpoint)
            sent = 0
            while dealer.poll(500, zmq.POLLOUT) and sent < 1000:  # the loop does not run meanwhile
                dealer.send(b"x" * MAX_PIECE, zmq.DONTWAIT)
                sent += 1
            assert UNREAD_MARK < sent < 2 * UNREAD_MARK  # the system's own buffers hold some
            async with asyncio.timeout(10):
                for _ in range(sent):
                    await got.acquire()  # nothing is lost
    finally:
        sockets.close()
        await sockets.wait_closed()
