"""Transports that break T1 to T5: where messages go, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec

import clstr
from clstr.abc import ReleaseReport
from clstr.errors import ClstrError, PayloadTooLargeError
from clstr.spi import Engine, Route
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher, Selector
from clstr.spi._pending import Pending, PendingReplies
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender
from clstr.spi._subscriptions import EngineSubscription, Holders
from conformance.broken import breaks
from conformance.loopback import LoopbackLink


@breaks("T1.1", "T1.3")
class MangledAsText(Answers):
    """Replies pass through a text."""

    def _reply(self, delivery: Delivery, data: bytes) -> None:
        super()._reply(delivery, data.decode(errors="ignore").encode())


@breaks("T1.1")
class EmptyReplyIsABuffer(Engine):
    """An empty reply is a bytearray."""

    async def request(self, envelope: clstr.Envelope, *, timeout: float = 5.0) -> Any:
        return await super().request(envelope, timeout=timeout) or bytearray()


@breaks("T1.1")
class HeadersLost(Receiver):
    """The handler gets no headers."""

    def _check(self, *args: Any) -> clstr.Envelope:
        return msgspec.structs.replace(super()._check(*args), headers={})


@breaks("T1.2")
class NoneBecomesNull(Answers):
    """A handler that returns nothing answers with JSON's null."""

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        super().handler_returned(delivery, b"null" if result is None else result)


@breaks("T1.3")
class HeadersCountAsPayload(Sender):
    """The bound of the payload is one of the message."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        size = len(envelope.data) + sum(map(len, envelope.headers.values()))
        if not oneway and size > self._engine.max_payload_bytes:
            raise PayloadTooLargeError(size, self._engine.max_payload_bytes)
        return await super().exchange(envelope, timeout, oneway=oneway)


@breaks("T1.3")
class LargestIsTooLarge(Engine):
    """A payload may have fewer bytes than the limit says."""

    async def open(self) -> Self:
        await super().open()
        self._payload_limit._bytes += 1
        return self


@breaks("T1.4")
class InflightBytesUnbounded(PendingReplies):
    """Any number of bytes waits for replies."""

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        return super().open(shard, 0, deadline, timeout, message_type)


@breaks("T1.4", "T9.2")
class InflightBytesNeverFreed(PendingReplies):
    """Bytes that were answered count for ever."""

    def close(self, pending: Pending) -> None:
        super().close(pending)
        self._bytes += pending.size


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


@breaks("T2.1", "T4.1", "T5.1", "T6.4", "T6.6", "T9.2", "T9.3", "T12.1", "T14.5", "T14.8", "T16.1", "T16.2")
class LosesOneInAHundred(LoopbackLink):
    """One message in a hundred is lost."""

    sent = 0

    def deliver(self, peer: LoopbackLink, shard: int, token: int, body: bytes) -> None:
        self.sent += 1
        if self.sent % 100 != 50:
            super().deliver(peer, shard, token, body)


@breaks("T2.1", "T2.2", "T12.1", "T16.1", "T16.2")
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


@breaks("T3.1", "T5.1", "T5.4", "T10.2", "T14.8")
class UnownedRequestWaits(_UnownedIsSilent):
    """A request to a shard that nobody holds waits for its deadline."""

    oneway = False


@breaks("T3.2")
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


@breaks("T4.1")
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


def is_release(selects: Selector) -> bool:
    """Tell whether a subscription is closed, not the transport: the engine says it by the function that it gives."""
    return "release" in getattr(selects, "__qualname__", "")


@breaks("T5.1", "T5.2")
class CloseDoesNotWait(Dispatcher):
    """Closing a subscription does not wait for its handlers."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        return is_release(selects) or await super().settle(selects, deadline)


@breaks("T5.2")
class CloseForgetsWhoWaits(Dispatcher):
    """Closing a subscription does not wait for handlers that wait for a reply."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        if not is_release(selects):
            return await super().settle(selects, deadline)
        return await super().settle(lambda each: selects(each) and not each.lent, deadline)


@breaks("T5.2")
class SecondCloseDoesNotWait(Dispatcher):
    """Of two calls that close a subscription at once the second does not wait."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        return (is_release(selects) and len(self._settlers) > 0) or await super().settle(selects, deadline)


@breaks("T5.1", "T5.3", "T5.5")
class CloseWaitsForEver(Dispatcher):
    """Closing a subscription waits for its handlers as long as they take."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        return await super().settle(selects, deadline + (1e6 if is_release(selects) else 0))


@breaks("T5.5")
class ReleasesInSilence(Engine):
    """Closing a subscription tells of no handler that still runs."""

    async def release(self, subscription: EngineSubscription, shards: frozenset[int] | None) -> ReleaseReport:
        await super().release(subscription, shards)
        return ReleaseReport()


@breaks("T5.4")
class CloseWaitsForItsCaller(Dispatcher):
    """A handler that closes its subscription waits for itself."""

    def begin_close(self, delivery: Delivery) -> None:
        """Do nothing."""

    def end_close(self, delivery: Delivery) -> None:
        """Do nothing."""


@breaks("T5.2")
class CloseWaitsForOtherShards(Dispatcher):
    """Letting go of a shard waits for the handlers of every other, too."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        chosen = (lambda each: not each.closing) if is_release(selects) else selects
        return await super().settle(chosen, deadline)


@breaks("T5.1")
class QueueOutlivesSubscription(Dispatcher):
    """What still waits for a slot when a subscription has been closed starts later."""

    def refuse_waiting(self, selects: Selector, new_error: Callable[[Delivery], ClstrError]) -> int:
        return 0 if is_release(selects) else super().refuse_waiting(selects, new_error)


@breaks("T2.2", "T3.1", "T5.1", "T5.2", "T5.4", "T12.3", "T16.1")
class UnsubscribeReturnsEarly(Holders):
    """A shard is let go of after the call has returned."""

    async def remove(self, *args: Any, **kwargs: Any) -> None:
        remove = super().remove
        asyncio.get_running_loop().call_later(0.001, lambda: asyncio.ensure_future(remove(*args, **kwargs)))
