"""What checks do with a link that can be cut."""

from __future__ import annotations

import asyncio
from typing import Any

import clstr
from clstr_testing._check import Bench
from clstr_testing._handlers import FAR, envelope

LINK = frozenset({"cut", "restore"})
PAUSE = 0.01
"""Seconds between two looks at a link that comes or goes."""


class LinkBench(Bench):
    """A bench whose hooks cut links and restore them."""

    async def hook(self, name: str, *peers: clstr.Transport) -> None:
        """Call the optional hook ``name``."""
        hook: Any = getattr(self, name)
        await hook(*peers)

    async def _answered(
        self, client: clstr.Transport, data: bytes, *losses: type[clstr.ClstrError], shard: int = 0
    ) -> None:
        """Send until there is an answer: after an outage both sides have to come back, and ``losses`` may happen."""
        losses = clstr.NoShardSubscriberError, clstr.ConnectionLostError, *losses
        while True:
            try:
                assert await client.request(envelope(shard, data), timeout=FAR) == data
                break
            except losses:
                await asyncio.sleep(PAUSE)

    async def _until_lost(self, client: clstr.Transport, shard: int = 0) -> None:
        """Wait until ``client`` knows that its link is gone; it asks ``shard``, and runs what is there."""
        while True:
            try:
                await client.request(envelope(shard), timeout=0.1)
            except (clstr.ConnectionLostError, clstr.TransportUnavailableError):
                return
            except clstr.RequestTimeoutError as error:
                if not error.maybe_executed:  # it waited for the link
                    return
            except clstr.NoShardSubscriberError:
                pass  # the other side was lost first
            await asyncio.sleep(PAUSE)
