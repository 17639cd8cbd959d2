"""The UNIX-socket link against the contract: bytes, partial reads, a connection to lose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import clstr
from clstr.spi import Engine, Limits
from clstr_testing import TransportSuite
from clusters.unix_hub import Hub, Peer
from clusters.unix_link import UnixLink


class TestUnixLink(TransportSuite):
    """Every peer of a check connects to a hub of its own."""

    hub: Hub

    @pytest.fixture(autouse=True)
    async def _start_hub(self, tmp_path: Path) -> AsyncIterator[None]:
        self.peers: dict[clstr.Transport, Peer] = {}
        async with Hub(tmp_path / "hub") as self.hub:
            yield

    async def connect(self, **options: Any) -> clstr.Transport:
        before = set(self.hub.peers)
        transport = await Engine(UnixLink(self.hub.path), limits=Limits(**options)).open()
        [self.peers[transport]] = self.hub.peers - before
        return transport

    async def cut_peer(self, peer: clstr.Transport) -> None:
        await self.hub.cut_peer(self.peers[peer])

    async def cut(self) -> None:
        await self.hub.cut()

    async def restore(self) -> None:
        await self.hub.restore()

    async def inject(self, shard: int, body: bytes) -> None:
        self.hub.inject(shard, body)
