"""`clstr.spi._links.streams`: what has arrived, and when."""

from __future__ import annotations

import asyncio
import socket

import pytest

from clstr.spi import open_stream
from clstr.spi._links.streams import MeteredReader
from spi.virtual_time import VirtualLoop


async def test_the_time_is_that_of_the_last_bytes_from_the_socket(clock: VirtualLoop) -> None:
    reader = MeteredReader()
    began = clock.time()
    reader.feed_data(b"ab")
    clock.jump(3)
    assert await reader.readexactly(1) == b"a"
    assert (reader.bytes_read, reader.read_at) == (2, began)
    reader.feed_data(b"c")
    assert await reader.readexactly(2) == b"bc"
    assert (reader.bytes_read, reader.read_at) == (3, began + 3)


@pytest.mark.usefixtures("real_loop")
async def test_a_stream_reads_and_writes_and_counts() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader, writer = await open_stream(ours)
    loop = asyncio.get_running_loop()
    writer.write(b"question")
    assert await loop.sock_recv(theirs, 100) == b"question"
    await loop.sock_sendall(theirs, b"answer")
    assert await reader.readexactly(6) == b"answer"
    assert reader.bytes_read == 6
    writer.close()
    await writer.wait_closed()
    theirs.close()


@pytest.mark.usefixtures("real_loop")
async def test_a_socket_that_cannot_become_a_stream_is_closed() -> None:
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pytest.raises(ValueError, match="Stream Socket"):
        await open_stream(datagram)
    assert datagram.fileno() == -1
