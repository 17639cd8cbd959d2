"""The UNIX-socket link against the contract: bytes, partial reads, a connection to lose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import clstr
from clstr.spi import Engine, Limits
from clstr_testing import TransportSuite
from clusters.unix_hub import Hub
from clusters.unix_link import UnixLink


class TestUnixLink(TransportSuite):
    """Every peer of a check connects to a hub of its own."""

    hub: Hub

    @pytest.fixture(autouse=True)
    async def _start_hub(self, tmp_path: Path) -> AsyncIterator[None]:
        async with Hub(tmp_path / "hub") as self.hub:
            yield

    async def connect(self, **options: Any) -> clstr.Transport:
        return await Engine(UnixLink(self.hub.path), limits=Limits(**options)).open()

    async def cut(self) -> None:
        await self.hub.cut()

    async def restore(self) -> None:
        await self.hub.restore()

    async def inject(self, shard: int, body: bytes) -> None:
        self.hub.inject(shard, body)
