"""What arrives at an open port: strangers, scanners, broken peers. The service goes on."""

from __future__ import annotations

import asyncio
import os
import random
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import zmq

import clstr
from clstr.spi import Engine
from clstr_zmq._link import ZmqLink

Connect = Callable[..., Awaitable[clstr.Transport]]
GREETING = b"\xff" + b"\0" * 8 + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" + b"\0" * 31
READY = b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"


async def echo(message: clstr.Envelope) -> bytes:
    return message.data


@pytest.fixture
async def server(connect: Connect) -> Engine:
    server = await connect("zmq://?bind=tcp://127.0.0.1:*")
    assert isinstance(server, Engine)
    await server.subscribe([0], echo)
    return server


def port_of(server: Engine) -> int:
    assert isinstance(server.link, ZmqLink)
    assert server.link.me.inbox is not None
    return int(server.link.me.inbox.address.rpartition(":")[2])


async def serves(connect: Connect, server: Engine) -> None:
    """A newcomer is answered."""
    async with asyncio.timeout(10):
        client = await connect(f"zmq://127.0.0.1:{port_of(server)}")
        assert await client.request(clstr.Envelope(shard=0, type="t", data=b"x"), timeout=60) == b"x"


async def raw(server: Engine) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port_of(server))


async def is_hung_up_on(reader: asyncio.StreamReader) -> None:
    """Return when the other side has closed."""
    async with asyncio.timeout(10):
        try:
            while await reader.read(65536):
                pass
        except ConnectionResetError:
            pass


def memory() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def test_bytes_that_are_no_zeromq_disturb_nobody(connect: Connect, server: Engine) -> None:
    """ZeroMQ takes some of them for its oldest protocol, and keeps those connections; they are strangers like any."""
    chance = random.Random(5)
    writers = []
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 200, *(chance.randbytes(100) for _ in range(50))):
        _, writer = await raw(server)
        writer.write(data)
        writers.append(writer)
    await serves(connect, server)
    for writer in writers:
        writer.close()
    await serves(connect, server)


async def test_handshakes_that_stop_half_way_are_hung_up_on(connect: Connect, server: Engine) -> None:
    """After two seconds; a hundred at once keep nobody else out."""
    connections = [await raw(server) for _ in range(100)]
    for number, (_, writer) in enumerate(connections):
        writer.write(GREETING[: number % len(GREETING)])
    await serves(connect, server)
    for reader, writer in connections:
        await is_hung_up_on(reader)
        writer.close()


async def test_a_frame_that_claims_a_gigabyte_is_hung_up_on(connect: Connect, server: Engine) -> None:
    """No memory is set aside for it."""
    before = memory()
    reader, writer = await raw(server)
    async with asyncio.timeout(10):
        writer.write(GREETING)
        await reader.readexactly(len(GREETING))
        writer.write(READY)
        await reader.readexactly(len(READY))
        writer.write(b"\x00\x01x")
        while server.counters.garbage == 0:  # noqa: ASYNC110 -- the handshake was right: what came after it has arrived
            await asyncio.sleep(0.005)
    writer.write(b"\x02" + struct.pack(">Q", 2**30) + b"x" * 1000)
    await is_hung_up_on(reader)
    writer.close()
    assert memory() - before < 2**27
    await serves(connect, server)


async def test_a_message_of_thousands_of_frames_is_one_piece_of_garbage(connect: Connect, server: Engine) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{port_of(server)}")
        dealer.send_multipart([b"x"] * 10_000)
        dealer.send_multipart([b"x", b"y"])
        async with asyncio.timeout(10):
            while server.counters.garbage < 2:  # noqa: ASYNC110 -- ZeroMQ's threads tell no event
                await asyncio.sleep(0.005)
    await serves(connect, server)
    assert server.counters.garbage == 2


async def test_thousands_of_our_frames_that_are_none_are_garbage(connect: Connect, server: Engine) -> None:
    chance = random.Random(6)
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{port_of(server)}")
        for _ in range(2000):
            dealer.send(chance.randbytes(chance.randrange(60)))
        dealer.send(b"\0\0\0\1")
        async with asyncio.timeout(10):
            while server.counters.garbage < 1500:  # noqa: ASYNC110 -- as above
                await asyncio.sleep(0.005)
    await serves(connect, server)
