"""The memory transport against the contract."""

from __future__ import annotations

import clstr_memory
from clstr_testing import TransportSuite


class TestMemory(TransportSuite):
    """Over its URL."""

    url = "memory://{cluster}"

    async def cut(self) -> None:
        clstr_memory.cut(self.cluster)

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
