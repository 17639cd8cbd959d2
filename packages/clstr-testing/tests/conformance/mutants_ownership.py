"""Transports that break T2 to T4: who gets a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clstr.spi import Route
from clstr.spi._receiver import Receiver
from clstr.spi._subscriptions import EngineSubscription, Holders
from conformance.broken import breaks
from conformance.loopback import LoopbackLink


@breaks("T2.1", "T16.1", "T16.2")
class FanOutToPeers(LoopbackLink):
    """Every peer that holds the shard gets the message."""

    def deliver(self, peer: LoopbackLink, shard: int, token: int, body: bytes) -> None:
        for holder in self.hub.holders[shard]:
            super().deliver(holder, shard, token, body)


@breaks("T2.2", "T16.1")
class FanOutToSubscriptions(Receiver):
    """Every subscription of the shard gets the message."""

    def _receive(self, shard: int, *message: Any) -> None:
        for _ in self._engine.holders._by_shard.get(shard, [None]):
            super()._receive(shard, *message)


@breaks("T2.2", "T16.1")
class LastSubscriptionGoes(Holders):
    """When one subscription lets go of a shard the link does, whoever else holds it."""

    async def remove(self, subscription: EngineSubscription, *args: Any, **kwargs: Any) -> None:
        await self._link.drop(sorted(subscription.shards))
        await super().remove(subscription, *args, **kwargs)


@breaks(
    "T1.1",
    "T1.2",
    "T1.4",
    "T1.5",
    "T1.6",
    "T2.1",
    "T4.1",
    "T5.1",
    "T6.4",
    "T6.6",
    "T9.2",
    "T9.3",
    "T12.1",
    "T14.5",
    "T14.8",
    "T16.1",
    "T16.2",
    "T17.1",
    "T17.2",
)
class LosesOneInAHundred(LoopbackLink):
    """One message in a hundred is lost."""

    sent = 0

    def deliver(self, peer: LoopbackLink, shard: int, token: int, body: bytes) -> None:
        self.sent += 1
        if self.sent % 100 != 50:
            super().deliver(peer, shard, token, body)


@breaks("T1.1", "T2.1", "T2.2", "T12.1", "T16.1", "T16.2")
class SendsTwice(LoopbackLink):
    """One message in twenty is sent twice."""

    sent = 0

    def deliver(self, peer: LoopbackLink, shard: int, token: int, body: bytes) -> None:
        super().deliver(peer, shard, token, body)
        self.sent += 1
        if self.sent % 20 == 0:
            super().deliver(peer, shard, token, body)


class _UnownedIsSilent(LoopbackLink):
    oneway: bool

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway == self.oneway and not self.hub.holders.get(shard):
            self.check_up()
            return None
        return super().send(shard, token, body, oneway=oneway)


@breaks("T3.1", "T5.1", "T5.4", "T9.2", "T10.2", "T14.8")
class UnownedRequestWaits(_UnownedIsSilent):
    """A request to a shard that nobody holds waits for its deadline."""

    oneway = False


@breaks("T3.2", "T9.2")
class UnownedNotifyWaits(_UnownedIsSilent):
    """A notify to a shard that nobody holds waits for its deadline."""

    oneway = True


@breaks("T3.2")
class UnownedNotifyIsAccepted(LoopbackLink):
    """A notify to a shard that nobody holds vanishes."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and self.is_up and not self.hub.holders.get(shard):
            self.sink.accepted(token)
            return None
        return super().send(shard, token, body, oneway=oneway)


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
