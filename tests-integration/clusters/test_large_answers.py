"""Many large answers at once to one client, which brokers disconnect if it reads more slowly than they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest

import clstr
from clstr import Envelope
from clstr_testing import Server, nats_server, valkey_server

ANSWER = b"x" * (683 * 1024)
NODES, REQUESTS = 4, 120


async def answer(_: Envelope) -> bytes:
    return ANSWER


@pytest.mark.parametrize("codec", ["msgpack", "json"])
@pytest.mark.parametrize("start", [nats_server, valkey_server], ids=["nats", "redis"])
async def test_one_client_gets_every_answer(
    start: Callable[[], AbstractAsyncContextManager[Server]], codec: str
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(start())
        for shard in range(NODES):
            node = await stack.enter_async_context(clstr.connect(server.url))
            await node.subscribe([shard], answer)
        client = await stack.enter_async_context(clstr.connect(f"{server.url}?codec={codec}"))
        asked = [client.request(Envelope(shard=number % NODES, type="Get"), timeout=60) for number in range(REQUESTS)]
        assert {len(each) for each in await asyncio.gather(*asked)} == {len(ANSWER)}
