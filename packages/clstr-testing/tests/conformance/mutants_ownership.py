"""Transports that break T3: who holds a shard, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import clstr
import clstr.abc
from clstr.spi import Engine, Route
from clstr.spi._receiver import Receiver
from clstr.spi._subscriptions import EngineSubscription, Holders
from conformance.broken import breaks
from conformance.loopback import Hub, LoopbackLink


class _UnownedIsSilent(LoopbackLink):
    oneway: bool

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway == self.oneway and not self.hub.holders.get(shard):
            self.check_up()
            return None
        return super().send(shard, token, body, oneway=oneway)


@breaks("T3.1", "T3.2", "T5.1", "T5.4", "T6.4", "T9.2", "T10.2", "T14.8")
class UnownedRequestWaits(_UnownedIsSilent):
    """A request to a shard that nobody holds waits for its deadline."""

    oneway = False


@breaks("T3.1", "T3.2", "T5.1", "T9.2")
class UnownedNotifyWaits(_UnownedIsSilent):
    """A notify to a shard that nobody holds waits for its deadline."""

    oneway = True


@breaks("T3.1", "T3.2", "T5.1")
class UnownedNotifyIsAccepted(LoopbackLink):
    """A notify to a shard that nobody holds vanishes."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and self.is_up and not self.hub.holders.get(shard):
            self.sink.accepted(token)
            return None
        return super().send(shard, token, body, oneway=oneway)


@breaks("T2.2", "T3.1", "T3.2", "T5.2", "T16.1", "T17.2")
class HeldTwiceStaysHeld(Holders):
    """A shard that a subscription adds twice has to be removed twice."""

    async def add(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        await super().add(subscription, shards)
        self._twice = getattr(self, "_twice", set()) | (shards & getattr(self, "_once", set()))
        self._once = getattr(self, "_once", set()) | shards

    async def remove(self, subscription: EngineSubscription, shards: frozenset[int] | None, *, deadline: float) -> None:
        kept = self._twice
        if shards is not None:
            self._twice, shards = kept - shards, shards - kept
        await super().remove(subscription, shards, deadline=deadline)


@breaks("T3.1", "T3.2", "T5.1")
class NotifyToFormerOwnerIsAccepted(LoopbackLink):
    """A notify to a shard that somebody has held vanishes."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and self.is_up and self.hub.holders.get(shard) == []:
            self.sink.accepted(token)
            return None
        return super().send(shard, token, body, oneway=oneway)


@breaks("T3.1", "T3.2", "T5.1", "T5.4")
class RequestToFormerOwnerWaits(LoopbackLink):
    """A request to a shard that somebody has held waits for its deadline."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if not oneway and self.is_up and self.hub.holders.get(shard) == []:
            return None
        return super().send(shard, token, body, oneway=oneway)


@breaks("T3.2")
class HolderNotifiesNobody(LoopbackLink):
    """A peer that holds a shard takes its own notifies to others for sent."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and self.held and not self.hub.holders.get(shard):
            self.sink.accepted(token)
            return None
        return super().send(shard, token, body, oneway=oneway)


@breaks("T3.2")
class FormerOwnerNotifiesNobody(LoopbackLink):
    """A peer that has held a shard takes its own notifies to it for sent."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.former: set[int] = set()

    async def drop(self, shards: Sequence[int]) -> None:
        await super().drop(shards)
        self.former.update(shards)

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and shard in self.former and not self.hub.holders.get(shard):
            self.sink.accepted(token)
            return None
        return super().send(shard, token, body, oneway=oneway)


class _ShardsWrap(LoopbackLink):
    """The numbers of shards wrap."""

    modulus: int

    async def hold(self, shards: Sequence[int]) -> None:
        await super().hold(shards)
        self.hub.enter(self, [shard % self.modulus for shard in shards if shard >= self.modulus])

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        self.check_up()
        peer = self.hub.pick(shard % self.modulus)
        self.deliver(peer, shard, token, body)
        if oneway:
            self.sink.accepted(token)
        return peer


@breaks("T3.1", "T3.2")
class ShardsHave16Bits(_ShardsWrap):
    """The link has 16 bits for the number of a shard."""

    modulus = 2**16


@breaks("T3.1", "T3.2")
class ShardsHave31Bits(_ShardsWrap):
    """The link has 31 bits for the number of a shard."""

    modulus = 2**31


@breaks("T3.1", "T3.2")
class ShardsHave12Bits(_ShardsWrap):
    """The link has 12 bits for the number of a shard."""

    modulus = 2**12


@breaks("T3.1", "T3.2")
class ShardsAreFloats(LoopbackLink):
    """The number of a large shard is rounded to what 24 bits tell apart."""

    async def hold(self, shards: Sequence[int]) -> None:
        await super().hold(shards)
        self.hub.enter(self, [shard & ~0xFF for shard in shards if shard >= 2**24])

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        self.check_up()
        peer = self.hub.pick(shard & ~0xFF if shard >= 2**24 else shard)
        self.deliver(peer, shard, token, body)
        if oneway:
            self.sink.accepted(token)
        return peer


@breaks("T3.1", "T3.2")
class NamesArePrefixes(LoopbackLink):
    """Who holds shard 1 gets what is for shard 10 too."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if not self.hub.holders.get(shard):
            for held, holders in self.hub.holders.items():
                if holders and str(shard).startswith(str(held)):
                    self.deliver(holders[0], shard, token, body)
                    if oneway:
                        self.sink.accepted(token)
                    return holders[0]
        return super().send(shard, token, body, oneway=oneway)


@breaks("T3.1", "T3.2")
class DroppedInAnOutageComesBack(LoopbackLink):
    """What is let go of while the link is down is held again afterwards."""

    async def drop(self, shards: Sequence[int]) -> None:
        if self.is_up:
            await super().drop(shards)


@breaks("T3.1", "T3.2")
class CancelledSubscribeHolds(LoopbackLink):
    """A subscription whose making was cancelled is there all the same."""

    async def hold(self, shards: Sequence[int]) -> None:
        await super().hold(shards)
        try:
            for _ in range(5):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled = frozenset(shards)
            raise

    cancelled: frozenset[int] = frozenset()

    async def drop(self, shards: Sequence[int]) -> None:
        await super().drop([shard for shard in shards if shard not in self.cancelled])
        self.cancelled = frozenset()


@breaks("T3.1", "T3.2")
class CancelledSubscribeHoldsLater(LoopbackLink):
    """A subscription whose making was cancelled is there a little later."""

    async def hold(self, shards: Sequence[int]) -> None:
        try:
            for _ in range(5):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.hub.loop.call_later(0.001, self.hub.enter, self, shards)
            raise
        await super().hold(shards)


@breaks("T3.1", "T3.2")
class FailedSubscribeHolds(LoopbackLink):
    """A subscription that failed because the link was down is there when it is up again."""

    async def hold(self, shards: Sequence[int]) -> None:
        self.held.update(shards)
        await super().hold(shards)

    async def drop(self, shards: Sequence[int]) -> None:
        if self.is_up:
            await super().drop(shards)


@breaks("T3.1", "T3.2")
class SubscribeInAnOutageHolds(Engine):
    """A subscription that waited for the link in vain comes with it."""

    async def hold(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        try:
            await super().hold(subscription, shards)
        except clstr.TransportUnavailableError:
            self.holders._enter(subscription, shards)
            cast("LoopbackLink", self.link).held.update(shards)
            raise


@breaks("T3.1", "T3.2", "T5.1", "T5.4", "T17.2")
class RemoveKeepsTheLink(Holders):
    """A shard is let go of at the link only when its subscription closes."""

    async def _drop(self, shards: list[int], deadline: float) -> None:
        if any(subscription.is_closed for held in self._by_shard.values() for subscription in held):
            await super()._drop(shards, deadline)


@breaks("T3.1", "T3.2")
class ClosedPeerStillHolds(LoopbackLink):
    """A peer that has closed counts as a holder."""

    async def drop(self, shards: Sequence[int]) -> None:
        if not cast("Receiver", self.sink)._engine.is_closing:
            await super().drop(shards)

    async def aclose(self) -> None:
        held = {shard for shard, holders in self.hub.holders.items() if self in holders}
        await super().aclose()
        self.hub.enter(self, sorted(held))


@breaks("T3.1", "T3.2")
class UnownedNamesNoShard(LoopbackLink):
    """The error of an unowned shard names another one."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if not self.hub.holders.get(shard):
            raise clstr.NoShardSubscriberError(shard % 256)
        return super().send(shard, token, body, oneway=oneway)
