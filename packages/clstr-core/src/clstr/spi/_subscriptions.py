"""Who holds which shard of this transport, and the gate that opens and shuts with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from clstr.abc import Handler, Subscription
from clstr.errors import TransportClosedError
from clstr.spi._link import Link
from clstr.spi._stats import Stats

if TYPE_CHECKING:
    from clstr.spi._engine import Engine


class EngineSubscription(Subscription):
    """A handler and its shards; the engine does the work."""

    def __init__(self, engine: Engine, handler: Handler) -> None:
        self._engine = engine
        self._shards: set[int] = set()
        self.handler = handler

    @property
    def shards(self) -> frozenset[int]:
        """The shards held now."""
        return frozenset(self._shards)

    def open_gate(self, shards: Iterable[int]) -> None:
        """Let messages for ``shards`` in."""
        self._shards.update(shards)

    def shut_gate(self, shards: Iterable[int]) -> None:
        """Let no more messages for ``shards`` in."""
        self._shards.difference_update(shards)

    async def add(self, shards: Iterable[int]) -> None:
        """Hold ``shards`` too: T4 is true of them on return."""
        await self._engine.hold(self, check_shards(shards))

    async def remove(self, shards: Iterable[int]) -> None:
        """Let go of ``shards``: T5 is true of them on return."""
        await self._engine.release(self, check_shards(shards))

    async def aclose(self) -> None:
        """Let go of every shard (T5). May be called twice."""
        await self._engine.release(self, None)


class Holders:
    """The subscriptions by shard. The link sees the first that holds a shard, and the last that lets go."""

    def __init__(self, link: Link, stats: Stats) -> None:
        self._link = link
        self._stats = stats
        self._by_shard: dict[int, list[EngineSubscription]] = {}
        self._is_closed = False
        self._lock = asyncio.Lock()  # hold and drop of one shard must reach the link one after the other

    @property
    def shards(self) -> list[int]:
        """Every shard that is held."""
        return list(self._by_shard)

    def pick(self, shard: int) -> EngineSubscription | None:
        """Choose who gets the next message for ``shard``: of several, each in turn (T2)."""
        holders = self._by_shard.get(shard)
        if holders is None:
            return None
        if len(holders) > 1:
            self._stats.shared_shards += 1
            holders.append(holders.pop(0))
        return holders[-1]

    async def add(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        """Let ``subscription`` hold ``shards``; on failure it holds none of them that it did not hold before."""
        async with self._lock:
            if self._is_closed:
                raise TransportClosedError
            added = shards - subscription.shards
            new = sorted(added - self._by_shard.keys())
            # The gate opens first: messages may arrive before the link's confirmation does.
            self._enter(subscription, added)
            try:
                if new:
                    await self._link.hold(new)
            except BaseException:
                self._leave(subscription, added)
                if new:
                    await self._link.drop(new)
                raise

    async def remove(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        """Let ``subscription`` go of ``shards``; on return its gate is shut, whatever the link did."""
        async with self._lock:
            removed = shards & subscription.shards
            last = sorted(shard for shard in removed if len(self._by_shard[shard]) == 1)
            try:
                if last and not self._is_closed:
                    await self._link.drop(last)
            finally:
                self._leave(subscription, removed)

    async def drop_all(self) -> None:
        """Stop receiving for good. The gates stay open: what still arrives is refused as draining."""
        async with self._lock:
            self._is_closed = True
            if self._by_shard:
                await self._link.drop(sorted(self._by_shard))

    def _enter(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        subscription.open_gate(shards)
        for shard in shards:
            self._by_shard.setdefault(shard, []).append(subscription)

    def _leave(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        subscription.shut_gate(shards)
        for shard in shards:
            holders = self._by_shard[shard]
            holders.remove(subscription)
            if not holders:
                del self._by_shard[shard]


def check_shards(shards: Iterable[int]) -> frozenset[int]:
    """
    Return ``shards`` as a set.

    Raises:
        TypeError: One is not an int.
        ValueError: One is not between 0 and 2**32 - 1.
    """
    chosen = frozenset(shards)
    for shard in chosen:
        if type(shard) is not int:
            raise TypeError(f"a shard must be an int, not {shard!r}")
        if not 0 <= shard < 2**32:
            raise ValueError(f"a shard must be between 0 and {2**32 - 1}, not {shard}")
    return chosen
