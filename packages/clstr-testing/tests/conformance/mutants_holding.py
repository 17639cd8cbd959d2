"""Transports that break T4: from when on a shard is held."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import clstr
import clstr.abc
from clstr.spi import Engine, Route, Sink
from clstr.spi._subscriptions import EngineSubscription
from conformance.broken import breaks
from conformance.loopback import LoopbackLink


@breaks("T1.6", "T4.1")
class AddReturnsEarly(LoopbackLink):
    """A connection confirms the first shards that it holds, and none that are added later."""

    async def hold(self, shards: Sequence[int]) -> None:
        if len(self.held) < 8:
            await super().hold(shards)
        else:
            self.held.update(shards)
            self.hub.loop.call_later(0.01, self.hub.enter, self, shards)


@breaks("T4.1")
class SubscribeReturnsEarly(LoopbackLink):
    """Of many shards only the first are confirmed."""

    async def hold(self, shards: Sequence[int]) -> None:
        await super().hold(shards[:1000])
        self.held.update(shards)
        self.hub.loop.call_later(0.01, self.hub.enter, self, shards[1000:])


class _HoldsLater(LoopbackLink):
    """Some shards are held a little later than the call says."""

    async def hold(self, shards: Sequence[int]) -> None:
        later = [shard for shard in shards if self.comes_later(shard)]
        await super().hold([shard for shard in shards if shard not in later])
        self.held.update(later)
        self.hub.loop.call_later(0.01, self.hub.enter, self, later)

    def comes_later(self, shard: int) -> bool:
        """Choose."""
        raise NotImplementedError


@breaks("T3.1", "T3.2", "T4.1", "T6.1", "T6.4", "T12.3")
class HeldAgainLater(_HoldsLater):
    """A shard that was held before is confirmed before it is held."""

    def comes_later(self, shard: int) -> bool:
        return shard in self.hub.holders


@breaks("T1.1", "T1.3", "T1.6", "T2.1", "T2.2", "T3.1", "T3.2", "T4.1", "T6.6", "T9.2", "T16.1")
class LargeShardsLater(_HoldsLater):
    """A shard above 2**16 is confirmed before it is held."""

    def comes_later(self, shard: int) -> bool:
        return shard >= 2**16


@breaks("T3.1", "T3.2", "T4.1")
class SharedLater(_HoldsLater):
    """A peer that takes a shard over is confirmed before it holds it."""

    def comes_later(self, shard: int) -> bool:
        return bool(self.hub.holders.get(shard))


@breaks(
    "T1.1",
    "T1.3",
    "T2.1",
    "T2.2",
    "T3.1",
    "T3.2",
    "T4.1",
    "T5.1",
    "T5.2",
    "T5.3",
    "T5.4",
    "T5.5",
    "T6.1",
    "T6.2",
    "T6.3",
    "T7.1",
    "T7.3",
    "T8.1",
    "T8.2",
    "T11.1",
    "T12.1",
    "T12.2",
    "T12.3",
    "T14.8",
    "T16.1",
)
class NotifyComesLater(LoopbackLink):
    """A shard is held for requests at once, and for notifies a little later."""

    async def hold(self, shards: Sequence[int]) -> None:
        await super().hold(shards)
        self.hub.loop.call_later(0.01, self.notifiable().update, shards)

    def notifiable(self) -> set[int]:
        """Return the shards that notifies reach."""
        found: set[int] = self.hub.__dict__.setdefault("notifiable", set())
        return found

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and shard not in self.notifiable():
            raise clstr.NoShardSubscriberError(shard)
        return super().send(shard, token, body, oneway=oneway)


@breaks("T3.1", "T3.2", "T4.1")
class SubscribeShardReturnsEarly(Engine):
    """`subscribe_shard` does not wait until the shard is held."""

    async def subscribe_shard(self, shard: int, handler: clstr.abc.Handler) -> EngineSubscription:
        subscription = EngineSubscription(self, handler)
        self.deadlines._loop.call_later(0.01, lambda: asyncio.ensure_future(subscription.add([shard])))
        return subscription


@breaks("T4.1")
class NewcomersSeeNothing(LoopbackLink):
    """Who connects after a shard was held learns of it a little later."""

    async def open(self, sink: Sink) -> None:
        await super().open(sink)
        self.opened = self.hub.loop.time()
        self.early = {shard for shard, holders in self.hub.holders.items() if holders}

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if shard in self.early and self.hub.loop.time() < self.opened + 0.01:
            raise clstr.NoShardSubscriberError(shard)
        return super().send(shard, token, body, oneway=oneway)


@breaks("T2.1", "T3.1", "T3.2", "T4.1", "T5.2", "T5.4", "T6.2", "T6.3", "T6.4", "T6.5", "T10.2", "T12.1", "T16.1")
class OwnShardsLater(LoopbackLink):
    """A peer's own messages find its shards a little later than those of others."""

    own: frozenset[int] = frozenset()

    async def hold(self, shards: Sequence[int]) -> None:
        await super().hold(shards)
        self.own = self.own | {*shards}
        self.hub.loop.call_later(0.01, self.find, {*shards})

    def find(self, shards: set[int]) -> None:
        """Reach the shards from now on."""
        self.own -= shards

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if shard in self.own:
            raise clstr.NoShardSubscriberError(shard)
        return super().send(shard, token, body, oneway=oneway)


@breaks(
    "T1.1",
    "T1.3",
    "T1.6",
    "T2.1",
    "T2.2",
    "T3.1",
    "T3.2",
    "T4.1",
    "T5.1",
    "T5.2",
    "T5.4",
    "T6.1",
    "T6.2",
    "T6.3",
    "T6.4",
    "T6.5",
    "T6.6",
    "T7.2",
    "T9.2",
    "T9.3",
    "T10.2",
    "T13.2",
    "T13.3",
    "T14.6",
    "T16.1",
)
class SubscribesAtOnceReturnEarly(LoopbackLink):
    """Of several calls at once the later ones return before their shards are held."""

    last = -1.0

    async def hold(self, shards: Sequence[int]) -> None:
        now = self.hub.loop.time()
        is_early, self.last = now - self.last < 0.0005, now
        if not is_early:
            await super().hold(shards)
            return
        self.held.update(shards)
        self.hub.loop.call_later(0.01, self.hub.enter, self, shards)
