"""The ZeroMQ transport against the contract: over TCP and UNIX sockets, with and without CURVE."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import zmq

import clstr
from clstr.spi import pack
from clstr_testing import FaultProxy, TransportSuite
from clstr_zmq._protocol import Hello, encode, encode_request


class TestZmqOverTcp(TransportSuite):
    """Every peer has an inbox, and reaches the others' through proxies that can cut; all know one seed."""

    most_peers = 5  # of one check, and the seed
    seed: str
    proxies: list[FaultProxy]
    inboxes: list[tuple[int, FaultProxy]]

    @pytest.fixture(autouse=True)
    async def _start_seed(self, new_port: Callable[[], int]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            ports = [new_port() for _ in range(1 + self.most_peers)]
            self.proxies = [await stack.enter_async_context(FaultProxy("127.0.0.1", port)) for port in ports]
            self.inboxes = list(zip(ports, self.proxies, strict=True))
            self.seed = ""
            self._ports: list[int] = []
            seed = await self.connect()
            stack.push_async_callback(seed.aclose)
            self.seed = f"127.0.0.1:{self.proxies[0].port}"
            yield

    async def connect(self, **options: Any) -> clstr.Transport:
        port, proxy = self.inboxes.pop(0)
        self._ports.append(port)
        url = f"zmq://{self.seed}?bind=tcp://127.0.0.1:{port}&advertise=127.0.0.1:{proxy.port}"
        return await clstr.connect(url, **options)

    async def cut(self) -> None:
        for proxy in self.proxies:
            proxy.refuse()
            await proxy.reset()

    async def restore(self) -> None:
        for proxy in self.proxies:
            proxy.accept()

    async def inject(self, shard: int, body: bytes) -> None:
        """Say hello to every inbox but the seed's, and send ``body``."""
        hello = Hello(cluster="clstr", peer_id="injector", epoch=1, inbox=None, max_bytes=2**20)
        with zmq.Context() as context:
            for port in self._ports[1:]:
                with context.socket(zmq.DEALER) as dealer:
                    dealer.connect(f"tcp://127.0.0.1:{port}")
                    dealer.send(pack([encode(hello)]))
                    dealer.send(pack([encode_request(1, shard, body)]))
