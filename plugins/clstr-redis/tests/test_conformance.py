"""The Redis transport against the contract, on real servers."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import redis.asyncio

import clstr
from clstr_redis import _frames as frames
from clstr_redis._names import Names
from clstr_testing import FaultProxy, Server, TransportSuite, redis_server, valkey_server


class TestValkey(TransportSuite):
    """Each check has a server of its own, behind a proxy that can cut."""

    user = ""
    query = ""
    server: Server
    proxy: FaultProxy
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
        async with self.start() as self.server, FaultProxy("127.0.0.1", self.server.port) as self.proxy:
            yield

    async def connect(self, **options: Any) -> clstr.Transport:
        if self.user:
            options.setdefault("peer_id", "node-1")  # what its rights are for
        return await clstr.connect(f"redis://{self.user}127.0.0.1:{self.proxy.port}{self.query}", **options)

    async def cut(self) -> None:
        self.proxy.refuse()
        await self.proxy.reset()

    async def restore(self) -> None:
        self.proxy.accept()

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
