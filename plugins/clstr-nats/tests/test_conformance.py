"""The NATS transport against the contract, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any

import nats
import pytest

import clstr
from clstr_testing import FaultProxy, Server, TransportSuite, nats_server

MOST_PEERS = 6  # of a check that cuts one of them


class TestNats(TransportSuite):
    """Each check has a server of its own, behind proxies that can cut, one for each peer."""

    codec = "json"
    server: Server

    @pytest.fixture(autouse=True)
    async def _start_server(self) -> AsyncIterator[None]:
        self.proxy_of: dict[clstr.Transport, FaultProxy] = {}
        async with nats_server("-D") as self.server, AsyncExitStack() as stack:
            new_proxies = (FaultProxy("127.0.0.1", self.server.port) for _ in range(MOST_PEERS))
            self.proxies = [await stack.enter_async_context(proxy) for proxy in new_proxies]
            self.next_proxy = cycle(self.proxies)
            yield

    async def connect(self, **options: Any) -> clstr.Transport:
        proxy = next(self.next_proxy)
        transport = await clstr.connect(f"nats://127.0.0.1:{proxy.port}?codec={self.codec}", **options)
        self.proxy_of[transport] = proxy
        return transport

    async def cut_peer(self, peer: clstr.Transport) -> None:
        self.proxy_of[peer].refuse()
        await self.proxy_of[peer].reset()

    async def cut(self) -> None:
        for proxy in self.proxies:
            proxy.refuse()
            await proxy.reset()
        async with asyncio.timeout(10):
            while self._connections():  # noqa: ASYNC110 -- a log tells no event
                await asyncio.sleep(0.001)

    def _connections(self) -> int:
        """Count what the server takes for open; to one that is not any more it would still hand a message."""
        log = self.server.log.read_text()
        return log.count("Client connection created") - log.count("Client connection closed")

    async def restore(self) -> None:
        for proxy in self.proxies:
            proxy.accept()

    async def inject(self, shard: int, body: bytes) -> None:
        connection = await nats.connect(f"nats://127.0.0.1:{self.server.port}")
        await connection.publish(f"clstr.shard.{shard}", body)
        await connection.flush()
        await connection.close()


class TestNatsWithMsgpack(TestNats):
    """In the codec for clusters without Go."""

    codec = "msgpack"
