"""Three servers: interest travels between them, and one of them may go."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

import clstr
from clstr import Envelope
from clstr.errors import ClstrError, NoShardSubscriberError
from clstr_testing import Server, free_port, nats_server

# A server that is told to go closes its connections one after the other, a second apart, and then ends.
LAME_DUCK = 'lame_duck_grace_period: "1ms"\nlame_duck_duration: "30s"\n'

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
            config = LAME_DUCK + f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}], pool_size: -1 }}'
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


async def test_answers_of_a_node_whose_server_is_told_to_go_are_not_lost(
    servers: list[Server], connect: Connect
) -> None:
    """They are ready at once after the node has lost its connection: it keeps them until it has another one."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def answer_later(envelope: Envelope) -> bytes:
        if envelope.data == b"19":
            asked.set()
        await may_answer.wait()
        return envelope.data

    node = await connect(servers[0].port, query=f",127.0.0.1:{servers[1].port}")
    client = await connect(servers[2].port)
    await node.subscribe([7], answer_later)
    requests = [
        asyncio.create_task(client.request(Envelope(shard=7, type="t", data=b"%d" % number), timeout=30))
        for number in range(20)
    ]
    async with asyncio.timeout(30):
        await asked.wait()
        os.kill(servers[0].pid, signal.SIGUSR2)
        while node.stats().is_up:  # noqa: ASYNC110 -- the transport tells it no other way
            await asyncio.sleep(0)
        may_answer.set()
        assert await asyncio.gather(*requests) == [b"%d" % number for number in range(20)]
    assert node.stats().dropped_replies == 0
    assert node.stats().reconnects == 1
