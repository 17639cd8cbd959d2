"""A server for each test that asks for one, and a server that says whatever it is told."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import clstr
from clstr_testing import FaultProxy, Server, redis_server, valkey_server

Connect = Callable[..., Awaitable[clstr.Transport]]
PAGE = Path(__file__).parents[3] / "docs" / "transports" / "redis.md"
SERVERS = {"valkey": valkey_server, "redis": redis_server}

HELLO = b"%3\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"


class FakeServer:
    """Speaks enough of the protocol to be connected to; ``answers`` says by command what it answers instead."""

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes] = {}
        self.said: list[list[bytes]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.changed = asyncio.Condition()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with suppress(ConnectionError):
            while line := await reader.readline():
                command = [await self.read_part(reader) for _ in range(int(line[1:]))]
                async with self.changed:
                    self.said.append(command)
                    self.changed.notify_all()
                writer.write(self.answer(command))
        writer.close()

    async def read_part(self, reader: asyncio.StreamReader) -> bytes:
        length = int((await reader.readline())[1:])
        return (await reader.readexactly(length + 2))[:-2]

    def answer(self, command: list[bytes]) -> bytes:
        name = command[0]
        if name in self.answers:
            return self.answers[name]
        if name == b"HELLO":
            return HELLO
        if name == b"SUBSCRIBE":
            return b">3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n" % (len(command[1]), command[1])
        return b"*0\r\n" if name == b"EVALSHA" else b"+OK\r\n"

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
def rights() -> dict[str, str]:
    """What the documentation tells operators to grant, by user."""
    page = PAGE.read_text(encoding="utf-8")
    return dict(re.findall(r"^user (\S+) on >secret (.+)$", page, re.MULTILINE))


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which server: its tests run on each that is installed."""
    chosen: str = request.param
    if chosen == "redis" and shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    return chosen


@pytest.fixture
async def server(kind: str) -> AsyncIterator[Server]:
    async with SERVERS[kind]() as running:
        yield running


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[Redis]:
    """A client of the same server, for looking into it."""
    async with Redis(host=server.host, port=server.port) as client:
        yield client


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
            port: int, *, scheme: str = "redis", user: str = "", query: str = "", **options: Any
        ) -> clstr.Transport:
            url = f"{scheme}://{user}{'@' if user else ''}127.0.0.1:{port}{query}"
            return await stack.enter_async_context(clstr.connect(url, **options))

        yield open_one
