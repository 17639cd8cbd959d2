"""The ZeroMQ transport against the contract: over TCP and UNIX sockets, with and without CURVE."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

import clstr
from clstr_testing import FaultProxy, HeldPort, TransportSuite


class TestZmqOverTcp(TransportSuite):
    """Every peer has an inbox, and reaches the others' through proxies that can cut; all know one seed."""

    seed: str
    proxies: list[FaultProxy]

    @pytest.fixture(autouse=True)
    async def _start_seed(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as self._stack:
            self.proxies = []
            self.seed = ""
            await self._stack.enter_async_context(await self.connect())
            yield

    async def connect(self, **options: Any) -> clstr.Transport:
        port = HeldPort()
        self._stack.callback(port.release)
        proxy = await self._stack.enter_async_context(FaultProxy("127.0.0.1", port.number))
        self.proxies.append(proxy)
        address = f"127.0.0.1:{proxy.port}"
        seed, self.seed = self.seed, self.seed or address
        url = f"zmq://{seed}?bind=tcp://127.0.0.1:{port.number}&advertise={address}"
        return await clstr.connect(url, **options)
