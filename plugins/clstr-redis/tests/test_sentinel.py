"""A primary, a replica and a sentinel: the primary dies, and everybody finds the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import redis.exceptions
from redis.asyncio import Redis

import clstr
from clstr import Envelope
from clstr.errors import AuthenticationError, ClstrError, NoShardSubscriberError, TransportUnavailableError
from clstr_testing import Server, free_port, redis_server, valkey_server

Connect = Callable[..., Awaitable[clstr.Transport]]
SERVERS = {"valkey": valkey_server, "redis": redis_server}


async def echo(envelope: Envelope) -> bytes:
    return envelope.data


def message(shard: int = 1, data: bytes = b"") -> Envelope:
    return Envelope(shard=shard, type="Echo", data=data)


@dataclass
class Group:
    """What the sentinel watches."""

    primary: Server
    replica: Server
    sentinel: Server


USERS = "user default on nopass ~* &* +@all\nuser watcher on >PLANTED ~* &* +@all"


def _watching(primary: Server) -> str:
    return f"""
sentinel monitor shop 127.0.0.1 {primary.port} 1
sentinel down-after-milliseconds shop 300
sentinel failover-timeout shop 2000
{USERS}
"""


@pytest.fixture
async def sentinel(kind: str, server: Server) -> AsyncIterator[Server]:
    async with SERVERS[kind]("--sentinel", config=_watching(server)) as sentinel:
        yield sentinel


@pytest.fixture
async def group(kind: str) -> AsyncIterator[Group]:
    start = SERVERS[kind]
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(start("--repl-diskless-sync-delay", "0"))
        replica = await stack.enter_async_context(start("--replicaof", "127.0.0.1", str(primary.port)))
        await _until_linked(replica)
        sentinel = await stack.enter_async_context(start("--sentinel", config=_watching(primary)))
        await _until_known(sentinel)
        yield Group(primary, replica, sentinel)
        for server in (primary, replica):
            server.kill()  # in good order they would wait for each other


async def _until_linked(replica: Server) -> None:
    async with Redis(host=replica.host, port=replica.port) as admin, asyncio.timeout(20):
        while (await admin.info("replication")).get("master_link_status") != "up":  # noqa: ASYNC110 -- tells nobody
            await asyncio.sleep(0.01)


async def _until_known(sentinel: Server) -> None:
    async with Redis(host=sentinel.host, port=sentinel.port) as admin, asyncio.timeout(20):
        while not await admin.sentinel_slaves("shop"):  # noqa: ASYNC110 -- tells nobody
            await asyncio.sleep(0.01)


def open_through(connect: Connect, *ports: int, service: str = "shop", query: str = "") -> Awaitable[clstr.Transport]:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports[1:])
    place = f"{',' if hosts else ''}{hosts}/{service}{query}"
    return connect(ports[0], scheme="redis+sentinel", query=place)


async def eventually(call: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(45):  # a sentinel takes its time
        while True:
            try:
                return await call()
            except ClstrError:
                await asyncio.sleep(0)


async def until_owned(client: clstr.Transport, shard: int) -> None:
    assert await eventually(lambda: client.request(message(shard, b"x"))) == b"x"


async def test_when_the_primary_dies_everybody_meets_at_the_next_one(group: Group, connect: Connect) -> None:
    node = await open_through(connect, group.sentinel.port)
    client = await open_through(connect, free_port(), group.sentinel.port)  # one sentinel of two is enough
    await node.subscribe(range(16), echo)
    assert await client.request(message(7, b"before")) == b"before"
    group.primary.kill()
    for shard in range(16):
        await until_owned(client, shard)
    async with Redis(host=group.replica.host, port=group.replica.port) as admin:
        assert len(await admin.keys("clstr:shard:*")) == 16


async def test_a_failover_by_hand_leaves_nobody_at_the_old_primary(group: Group, connect: Connect) -> None:
    node, client = [await open_through(connect, group.sentinel.port, query="?heartbeat=0.2") for _ in range(2)]
    await node.subscribe([1], echo)
    async with Redis(host=group.sentinel.host, port=group.sentinel.port) as admin:
        async with asyncio.timeout(45):
            while not await _fails_over(admin):  # noqa: ASYNC110 -- as below
                await asyncio.sleep(0.01)
            while await _primary(admin) != group.replica.port:  # noqa: ASYNC110 -- a sentinel's own time
                await asyncio.sleep(0.01)
    async with Redis(host=group.replica.host, port=group.replica.port) as admin, asyncio.timeout(45):
        while len(await admin.pubsub_channels("clstr:in:*")) != 2:  # noqa: ASYNC110 -- the server tells nobody
            await asyncio.sleep(0.01)
    assert await eventually(lambda: client.request(message(1, b"x"))) == b"x"


async def _fails_over(admin: Redis) -> bool:
    """Ask for it; the sentinel has to find the replica good first."""
    try:
        await admin.sentinel_failover("shop")
    except redis.exceptions.ResponseError as error:
        if "NOGOODSLAVE" not in str(error):
            raise
        return False
    return True


async def _primary(admin: Redis) -> int:
    found: Any = await admin.sentinel_get_master_addr_by_name("shop", return_responses=True)
    return int(found[1])


async def test_a_service_that_no_sentinel_knows_is_named(sentinel: Server, connect: Connect) -> None:
    with pytest.raises(TransportUnavailableError, match=r"the service nobody of 127\.0\.0\.1"):
        await open_through(connect, sentinel.port, service="nobody")


async def test_a_sentinel_that_is_taken_for_a_server_is_named(sentinel: Server, connect: Connect) -> None:
    with pytest.raises(TransportUnavailableError, match=r"it is a sentinel: write redis\+sentinel://"):
        await connect(sentinel.port)


async def test_sentinels_have_a_user_of_their_own(sentinel: Server, connect: Connect) -> None:
    query = "?sentinel_username=watcher&sentinel_password="
    transport = await open_through(connect, sentinel.port, query=f"{query}PLANTED")
    with pytest.raises(NoShardSubscriberError):
        await transport.request(message())
    with pytest.raises((AuthenticationError, TransportUnavailableError)) as caught:
        await open_through(connect, sentinel.port, query=f"{query}wrong-one")
    assert "wrong-one" not in str(caught.value)


async def test_no_sentinel_at_all_is_an_error_that_names_them(connect: Connect) -> None:
    port = free_port()
    with pytest.raises(TransportUnavailableError, match=f"127.0.0.1:{port}"):
        await open_through(connect, port)
