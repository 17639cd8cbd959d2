"""The memory transport against the contract."""

from __future__ import annotations

import clstr
import clstr_memory
from clstr.spi import Engine
from clstr_memory._link import MemoryLink
from clstr_testing import TransportSuite


class TestMemory(TransportSuite):
    """Over its URL."""

    url = "memory://{cluster}"

    async def cut(self) -> None:
        clstr_memory.cut(self.cluster)

    async def cut_peer(self, peer: clstr.Transport) -> None:
        assert isinstance(peer, Engine)
        assert isinstance(peer.link, MemoryLink)
        peer.link.cut()

    async def restore(self) -> None:
        clstr_memory.restore(self.cluster)

    async def inject(self, shard: int, body: bytes) -> None:
        clstr_memory.inject(self.cluster, shard, body)


class TestMemoryWithJson(TestMemory):
    """In the codec of clstr-go."""

    url = "memory://{cluster}?codec=json"


class TestMemoryWithDelay(TestMemory):
    """Messages overtake each other."""

    url = "memory://{cluster}?delay=0.002&seed=3"
