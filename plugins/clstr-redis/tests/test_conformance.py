"""The Redis transport against the contract, on real servers."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import pytest
import redis.asyncio

import clstr
from clstr_redis import _frames as frames
from clstr_redis._names import Names
from clstr_testing import FaultProxy, Server, TransportSuite, redis_server, valkey_server


class TestValkey(TransportSuite):
    """Each check has a server of its own, behind a proxy that can cut."""

    start: ClassVar[Callable[[], AbstractAsyncContextManager[Server]]] = staticmethod(valkey_server)
    query = ""
    server: Server
    proxy: FaultProxy

    @pytest.fixture(autouse=True)
    async def _start_server(self) -> AsyncIterator[None]:
        async with self.start() as self.server, FaultProxy("127.0.0.1", self.server.port) as self.proxy:
            yield

    async def connect(self, **options: Any) -> clstr.Transport:
        return await clstr.connect(f"redis://127.0.0.1:{self.proxy.port}{self.query}", **options)

    async def cut(self) -> None:
        self.proxy.refuse()
        await self.proxy.reset()

    async def restore(self) -> None:
        self.proxy.accept()

    async def inject(self, shard: int, body: bytes) -> None:
        """Publish as a peer would; an empty body is no frame of ours, and so is nothing at all."""
        message = frames.join(Names("clstr", "stranger").new_inbox(), [frames.request(shard, 1, body)])
        async with redis.asyncio.Redis(host="127.0.0.1", port=self.server.port) as client:
            for inbox in await client.zrange(f"clstr:shard:{shard}", 0, -1):
                await client.publish(inbox, message)


class TestValkeyWithJson(TestValkey):
    """In the other codec."""

    query = "?codec=json"


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
class TestRedis(TestValkey):
    """On Redis itself."""

    start = staticmethod(redis_server)
