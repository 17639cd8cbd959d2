"""A server for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

import clstr
from clstr_testing import FaultProxy, Server, valkey_server

Connect = Callable[..., Awaitable[clstr.Transport]]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with valkey_server() as running:
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
            port: int, *, scheme: str = "redis", user: str = "", query: str = "", **options: Any
        ) -> clstr.Transport:
            url = f"{scheme}://{user}{'@' if user else ''}127.0.0.1:{port}{query}"
            return await stack.enter_async_context(clstr.connect(url, **options))

        yield open_one
