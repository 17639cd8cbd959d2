"""Three servers: interest travels between them, and one of them may go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

import clstr
from clstr import Envelope
from clstr.errors import ClstrError, NoShardSubscriberError
from clstr_testing import Server, free_port, nats_server

Connect = Callable[..., Awaitable[clstr.Transport]]


async def echo(envelope: Envelope) -> bytes:
    return envelope.data


@pytest.fixture
async def servers() -> AsyncIterator[list[Server]]:
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    async with AsyncExitStack() as stack:
        running = []
        for port in ports:
            config = f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}], pool_size: -1 }}'
            running.append(await stack.enter_async_context(nats_server(config=config)))
        async with asyncio.timeout(20):
            while not all(each.log.read_text().count("Route connection created") >= 2 for each in running):  # noqa: ASYNC110 -- a log
                await asyncio.sleep(0.01)
        yield running


async def test_who_subscribed_at_one_server_is_found_through_another(servers: list[Server], connect: Connect) -> None:
    """Interest takes a millisecond to travel: a 503 is believed after asking once more."""
    node, client = await connect(servers[0].port), await connect(servers[1].port)
    for shard in range(200):
        await node.subscribe([shard], echo)
        assert await client.request(Envelope(shard=shard, type="t", data=b"x")) == b"x"


async def test_nobody_there_is_still_known_at_once(servers: list[Server], connect: Connect) -> None:
    client = await connect(servers[1].port)
    async with asyncio.timeout(5):
        with pytest.raises(NoShardSubscriberError):
            await client.request(Envelope(shard=7, type="t"), timeout=60)
        with pytest.raises(NoShardSubscriberError):
            await client.notify(Envelope(shard=7, type="t"), timeout=60)


async def test_one_server_may_go(servers: list[Server], connect: Connect) -> None:
    everywhere = ",".join(f"127.0.0.1:{server.port}" for server in servers[1:])
    query = f",{everywhere}"
    node, client = [await connect(servers[0].port, query=query) for _ in range(2)]
    await node.subscribe([7], echo)
    for server in servers[:2]:
        server.kill()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await client.request(Envelope(shard=7, type="t", data=b"x"), timeout=2) == b"x"
                    break
                except ClstrError:
                    await asyncio.sleep(0)
