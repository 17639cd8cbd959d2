"""Ports that stay free until an inbox is bound there, and peers that are closed when a test ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

import clstr

Connect = Callable[..., Awaitable[clstr.Transport]]


@pytest.fixture
def new_port() -> Iterator[Callable[[], int]]:
    """Choose free ports; a socket that does not listen keeps each from everybody but those who reuse addresses."""
    held: list[socket.socket] = []

    def choose() -> int:
        holder = socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        held.append(holder)
        port: int = holder.getsockname()[1]
        return port

    yield choose
    for each in held:
        each.close()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open transports that are closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def open_one(url: str, **options: Any) -> clstr.Transport:
            return await stack.enter_async_context(clstr.connect(url, **{"drain_timeout": 1.0, **options}))

        yield open_one
