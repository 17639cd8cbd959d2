"""A server for each test that asks for one, and a server that says whatever it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

import clstr
from clstr_testing import FaultProxy, Server, nats_server

Connect = Callable[..., Awaitable[clstr.Transport]]
INFO = {"server_id": "FAKE", "version": "2.15.1", "headers": True, "max_payload": 1048576, "proto": 1}


class FakeServer:
    """Speaks enough of the protocol to be connected to; ``said`` is what clients wrote, line by line."""

    def __init__(self, **info: object) -> None:
        self.info: dict[str, object] = INFO | info
        self.said: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.changed = asyncio.Condition()
        self.on_ping = b"PONG\r\n"
        self.on_publish: Callable[[bytes], bytes] = lambda _reply: b""
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        writer.write(b"INFO " + json.dumps(self.info).encode() + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PUB "):
                line += await reader.readexactly(int(line.split()[-1]) + 2)
            async with self.changed:
                self.said.append(line)
                self.changed.notify_all()
            if line == b"PING\r\n":
                writer.write(self.on_ping)
            elif line.startswith(b"PUB clstr.shard.probe-"):  # nobody listens to every shard
                writer.write(b"HMSG %s 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % line.split()[2])
            elif line.startswith(b"PUB "):
                writer.write(self.on_publish(line.split()[2]))
        writer.close()

    async def until(self, predicate: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(predicate)

    def say(self, line: bytes) -> None:
        self.writers[-1].write(line)


@pytest.fixture
async def fake_server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    yield server
    listener.close()
    for writer in server.writers:
        writer.close()
    await asyncio.sleep(0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with nats_server() as running:
        yield running


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[FaultProxy]:
    """The same server behind a proxy."""
    async with FaultProxy(server.host, server.port) as running:
        yield running


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open transports that are closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def open_one(
            port: int, *, scheme: str = "nats", user: str = "", query: str = "", **options: Any
        ) -> clstr.Transport:
            url = f"{scheme}://{user}{'@' if user else ''}127.0.0.1:{port}{query}"
            return await stack.enter_async_context(clstr.connect(url, **options))

        yield open_one
