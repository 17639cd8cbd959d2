"""The NATS transport against the contract, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest

import clstr
from clstr_testing import FaultProxy, Server, TransportSuite, nats_server


class TestNats(TransportSuite):
    """Each check has a server of its own, behind a proxy that can cut."""

    codec = "json"
    server: Server
    proxy: FaultProxy

    @pytest.fixture(autouse=True)
    async def _start_server(self) -> AsyncIterator[None]:
        async with nats_server("-D") as self.server, FaultProxy("127.0.0.1", self.server.port) as self.proxy:
            yield

    async def connect(self, **options: Any) -> clstr.Transport:
        return await clstr.connect(f"nats://127.0.0.1:{self.proxy.port}?codec={self.codec}", **options)

    async def cut(self) -> None:
        self.proxy.refuse()
        await self.proxy.reset()
        async with asyncio.timeout(10):
            while self._connections():  # noqa: ASYNC110 -- a log tells no event
                await asyncio.sleep(0.001)

    def _connections(self) -> int:
        """Count what the server takes for open; to one that is not any more it would still hand a message."""
        log = self.server.log.read_text()
        return log.count("Client connection created") - log.count("Client connection closed")

    async def restore(self) -> None:
        self.proxy.accept()

    async def inject(self, shard: int, body: bytes) -> None:
        connection = await nats.connect(f"nats://127.0.0.1:{self.server.port}")
        await connection.publish(f"clstr.shard.{shard}", body)
        await connection.flush()
        await connection.close()


class TestNatsWithMsgpack(TestNats):
    """In the codec for clusters without Go."""

    codec = "msgpack"
