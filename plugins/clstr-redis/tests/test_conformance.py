"""The Redis transport against the contract, on real servers."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from itertools import cycle
from typing import Any

import pytest
import redis.asyncio

import clstr
from clstr_redis import _frames as frames
from clstr_redis._names import Names
from clstr_testing import FaultProxy, Server, TransportSuite, redis_server, valkey_server

MOST_PEERS = 6  # of a check that cuts one of them


class TestValkey(TransportSuite):
    """Each check has a server of its own, behind proxies that can cut, one for each peer."""

    user = ""
    query = ""
    server: Server
    rights: dict[str, str]

    def start(self) -> AbstractAsyncContextManager[Server]:
        """Start the server."""
        return valkey_server(config=self.config)

    @property
    def config(self) -> str:
        """The node of the documentation, beside the user "default" for the checks themselves."""
        return f"user node on >secret {self.rights['node-1']}"

    @pytest.fixture(autouse=True)
    async def _start_server(self, rights: dict[str, str]) -> AsyncIterator[None]:
        self.rights = rights
        self.proxy_of: dict[clstr.Transport, FaultProxy] = {}
        async with self.start() as self.server, AsyncExitStack() as stack:
            new_proxies = (FaultProxy("127.0.0.1", self.server.port) for _ in range(MOST_PEERS))
            self.proxies = [await stack.enter_async_context(proxy) for proxy in new_proxies]
            self.next_proxy = cycle(self.proxies)
            yield

    async def connect(self, **options: Any) -> clstr.Transport:
        if self.user:
            options.setdefault("peer_id", "node-1")  # what its rights are for
        proxy = next(self.next_proxy)
        transport = await clstr.connect(f"redis://{self.user}127.0.0.1:{proxy.port}{self.query}", **options)
        self.proxy_of[transport] = proxy
        return transport

    async def cut_peer(self, peer: clstr.Transport) -> None:
        self.proxy_of[peer].refuse()
        await self.proxy_of[peer].reset()

    async def cut(self) -> None:
        for proxy in self.proxies:
            proxy.refuse()
            await proxy.reset()

    async def restore(self) -> None:
        for proxy in self.proxies:
            proxy.accept()

    async def inject(self, shard: int, body: bytes) -> None:
        """Publish as a peer would; an empty body is no frame of ours, and so is nothing at all."""
        message = frames.join(Names("clstr", "stranger").new_inbox(), [frames.request(shard, 1, body)])
        async with redis.asyncio.Redis(host="127.0.0.1", port=self.server.port) as client:
            inboxes: Any = await client.zrange(f"clstr:shard:{shard}", 0, -1)
            for inbox in inboxes:
                await client.publish(inbox, message)


class TestValkeyWithTheLeastRights(TestValkey):
    """As a user that may do what is documented and nothing else, and in the other codec."""

    user = "node:secret@"
    query = "?codec=json"


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
class TestRedis(TestValkey):
    """On Redis itself."""

    def start(self) -> AbstractAsyncContextManager[Server]:
        """Start the server."""
        return redis_server(config=self.config)


class TestRedisWithTheLeastRights(TestRedis):
    """As a user that may do what is documented, and nothing else."""

    user = "node:secret@"
