"""Transports that break T2: one of several that hold a shard gets each message."""

from __future__ import annotations

from typing import Any

import msgspec

from clstr.spi import Route
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
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


@breaks("T2.1", "T2.2", "T5.2", "T16.1")
class FanOutToSubscriptions(Receiver):
    """Every subscription of the shard gets the message."""

    def _receive(self, shard: int, *message: Any) -> None:
        for _ in self._engine.holders._by_shard.get(shard, [None]):
            super()._receive(shard, *message)


@breaks("T2.2", "T3.1", "T3.2", "T16.1")
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
    "T2.2",
    "T4.1",
    "T5.1",
    "T6.1",
    "T6.3",
    "T6.4",
    "T6.6",
    "T8.1",
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


@breaks("T1.1", "T2.1", "T2.2", "T6.1", "T6.2", "T8.1", "T12.1", "T16.1", "T16.2")
class SendsTwice(LoopbackLink):
    """One message in twenty is sent twice."""

    sent = 0

    def deliver(self, peer: LoopbackLink, shard: int, token: int, body: bytes) -> None:
        super().deliver(peer, shard, token, body)
        self.sent += 1
        if self.sent % 20 == 0:
            super().deliver(peer, shard, token, body)


class _SomeToAll(LoopbackLink):
    """Some of the messages go to every peer that holds the shard."""

    count = 0

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        route = super().send(shard, token, body, oneway=oneway)
        self.count += 1
        if self.goes_to_all(shard, body, oneway=oneway):
            for peer in self.hub.holders[shard]:
                if peer is not route:
                    self.deliver(peer, shard, token, body)
        return route

    def goes_to_all(self, shard: int, body: bytes, *, oneway: bool) -> bool:
        """Choose."""
        raise NotImplementedError


@breaks("T2.1", "T16.1")
class OneNotifyInThreeToAll(_SomeToAll):
    """Every peer that holds the shard gets one notify in three."""

    def goes_to_all(self, shard: int, body: bytes, *, oneway: bool) -> bool:
        return oneway and self.count % 3 == 0


@breaks("T2.1", "T16.1")
class OneNotifyInAHundredToAll(_SomeToAll):
    """Every peer that holds the shard gets one notify in a hundred."""

    def goes_to_all(self, shard: int, body: bytes, *, oneway: bool) -> bool:
        return oneway and self.count % 100 == 70


@breaks("T2.1", "T16.1")
class OneRequestInAHundredToAll(_SomeToAll):
    """Every peer that holds the shard gets one request in a hundred."""

    def goes_to_all(self, shard: int, body: bytes, *, oneway: bool) -> bool:
        return not oneway and self.count % 100 == 70


@breaks("T2.1", "T16.1")
class LargeNotifyToAll(_SomeToAll):
    """Every peer that holds the shard gets a notify with much data."""

    def goes_to_all(self, shard: int, body: bytes, *, oneway: bool) -> bool:
        return oneway and len(body) > 4096


@breaks("T2.1", "T16.1")
class HolderSendsToAll(_SomeToAll):
    """What a peer sends that holds the shard itself goes to all who do."""

    def goes_to_all(self, shard: int, body: bytes, *, oneway: bool) -> bool:
        return shard in self.held


@breaks("T2.1", "T16.1")
class LargeShardsToAll(_SomeToAll):
    """What goes to a shard above 2**16 goes to all who hold it."""

    def goes_to_all(self, shard: int, body: bytes, *, oneway: bool) -> bool:
        return shard >= 2**16


@breaks("T2.1", "T2.2", "T16.1")
class NotifyToAllSubscriptions(Dispatcher):
    """Every subscription of a peer gets a notify."""

    def admit(self, delivery: Delivery) -> None:
        holders = delivery.subscription._engine.holders._by_shard[delivery.envelope.shard] if delivery.oneway else []
        others = [each for each in holders if each is not delivery.subscription]
        for each in [msgspec.structs.replace(delivery, subscription=other) for other in others]:
            super().admit(each)  # copies from before the first one has run: where handlers begin at once, it has ended
        super().admit(delivery)


@breaks("T2.1", "T2.2", "T16.1")
class OneNotifyInTenToTwoSubscriptions(Dispatcher):
    """One notify in ten goes to two subscriptions of a peer."""

    count = 0

    def admit(self, delivery: Delivery) -> None:
        self.count += delivery.oneway
        if delivery.oneway and self.count % 10 == 0:
            for other in delivery.subscription._engine.holders._by_shard[delivery.envelope.shard]:
                if other is not delivery.subscription:
                    super().admit(msgspec.structs.replace(delivery, subscription=other))
                    break
        super().admit(delivery)
