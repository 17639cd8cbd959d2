"""Transports that break T6 to T8: what runs, how long, and what waits."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import clstr
from clstr._context import Current, current
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
from clstr.spi._sender import Sender, _Call
from clstr.spi._set_aside import Queue
from conformance.broken import breaks
from conformance.loopback import LoopbackLink


@breaks("T6.1", "T9.2", "T12.1")
class SerialWithinAShard(Dispatcher):
    """Handlers of one shard run one after the other."""

    def _has_slot(self, delivery: Delivery) -> bool:
        busy = {each.envelope.shard for each in self._running if not each.lent}
        return super()._has_slot(delivery) and delivery.envelope.shard not in busy


@breaks("T5.1", "T6.1", "T6.2", "T6.3", "T6.5", "T7.3", "T8.2", "T12.2")
class OneMoreRuns(Dispatcher):
    """One handler too many runs."""

    def _has_slot(self, delivery: Delivery) -> bool:
        self._active -= 1
        has_slot = super()._has_slot(delivery)
        self._active += 1
        return has_slot


@breaks("T6.1")
class OneFewerRuns(Dispatcher):
    """Of several slots one is never used."""

    def _has_slot(self, delivery: Delivery) -> bool:
        return super()._has_slot(delivery) and self._active < max(2, self._limits.max_concurrent - 1)


@breaks("T6.2", "T6.5", "T7.3", "T12.2")
class QueueUnbounded(Dispatcher):
    """Any number of messages waits."""

    def admit(self, delivery: Delivery) -> None:
        self._limits = replace(self._limits, max_queue=10**9)
        super().admit(delivery)


@breaks("T6.3")
class QueueBytesUnbounded(Dispatcher):
    """Any number of bytes waits."""

    def admit(self, delivery: Delivery) -> None:
        self._limits = replace(self._limits, max_queue_bytes=10**9)
        super().admit(delivery)


@breaks("T6.3")
class QueueBytesNeverFreed(Dispatcher):
    """The bytes of messages that waited count for ever."""

    def _dequeue(self, delivery: Delivery) -> None:
        super()._dequeue(delivery)
        room = max(1, self._limits.max_queue_bytes - delivery.size)
        self._limits = replace(self._limits, max_queue_bytes=room)


@breaks("T6.2", "T6.5", "T7.3", "T12.2")
class FullQueueDropsTheMessage(Dispatcher):
    """What the queue has no room for vanishes."""

    def admit(self, delivery: Delivery) -> None:
        if self._has_slot(delivery) or len(self._queue_of(delivery)) < self._limits.max_queue:
            super().admit(delivery)


@breaks("T6.6")
class DropsWhatItHasNoRoomFor(LoopbackLink):
    """An answer vanishes if too much of this tick is yet to be sent."""

    unsent = 0

    def reply(self, to: object, body: bytes) -> bool:
        if self.unsent > 4 * 1024 * 1024:
            return True
        self.unsent += len(body)
        self.hub.loop.call_soon(self.sent, len(body))
        return super().reply(to, body)

    def sent(self, size: int) -> None:
        self.unsent -= size


@breaks("T6.4", "T6.5")
class SlotsAreNotLent(Dispatcher):
    """A handler keeps its slot while it waits for a reply."""

    def lend(self, delivery: Delivery) -> None:
        """Do nothing."""

    def reclaim(self, delivery: Delivery) -> None:
        """Do nothing."""


@breaks("T6.4", "T6.5")
class ChildTasksKeepTheSlot(Dispatcher):
    """A handler lends its slot only if it makes the request itself, not in a task that it started."""

    def lend(self, delivery: Delivery) -> None:
        if asyncio.current_task() is delivery.task:
            super().lend(delivery)

    def reclaim(self, delivery: Delivery) -> None:
        if asyncio.current_task() is delivery.task:
            super().reclaim(delivery)


@breaks("T6.4")
class LentSlotIsAwaited(Sender):
    """A handler that has its reply waits until a slot is free."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        reply = await super().exchange(envelope, timeout, oneway=oneway)
        dispatcher = self._engine.dispatcher
        maximum = self._engine.limits.max_concurrent
        while current() is not None and dispatcher.active > maximum:  # noqa: ASYNC110 -- a fault need not be elegant
            await asyncio.sleep(0.01)
        return reply


@breaks("T6.4", "T6.5")
class OneQueue(Dispatcher):
    """Requests made inside a handler wait behind those from outside."""

    def _queue_of(self, delivery: Delivery) -> Queue:
        return self._outer


@breaks("T6.5")
class NestedStartLast(Dispatcher):
    """Requests made inside a handler have a queue of their own, which is served last."""

    def _start_waiting(self) -> None:
        self._wake_scheduled = False
        for queue in (self._outer, self._nested):
            while queue and self._active < self._limits.max_concurrent:
                delivery = next(iter(queue))
                self._dequeue(delivery)
                self._start(delivery)


@breaks("T6.4", "T6.5")
class NoDepthOnTheWire(Sender):
    """A request made inside a handler looks like one from outside."""

    def _new_call(
        self, envelope: clstr.Envelope, timeout: float, now: float, inside: Current | None, *, oneway: bool
    ) -> _Call:
        return super()._new_call(envelope, timeout, now, None, oneway=oneway)


@breaks("T7.1", "T7.3", "T16.1")
class HandlerTimeoutIgnored(Dispatcher):
    """A handler may take as long as its message's TTL allows."""

    def _start(self, delivery: Delivery) -> None:
        self._limits = replace(self._limits, handler_timeout=1e6)
        super()._start(delivery)


@breaks("T7.1", "T7.2", "T14.6")
class HandlerIsNotCancelled(Dispatcher):
    """A handler's caller learns that its time is over, the handler does not."""

    def _cancel(self, delivery: Delivery) -> None:
        self._answers.handler_timed_out(delivery)


@breaks("T7.1", "T7.2", "T7.3", "T14.6", "T16.1")
class HandlerTimeoutIsSilent(Dispatcher):
    """A handler is cancelled in time, but its caller hears nothing."""

    def _cancel(self, delivery: Delivery) -> None:
        delivery.answered = True
        super()._cancel(delivery)


@breaks("T7.2", "T8.2")
class TtlEndsAtTheStart(Dispatcher):
    """What has started in time may run as long as any other."""

    def _start(self, delivery: Delivery) -> None:
        delivery.deadline = math.inf
        super()._start(delivery)


@breaks("T7.2", "T8.2")
class TtlIgnored(Dispatcher):
    """The node does not look at the TTL."""

    def admit(self, delivery: Delivery) -> None:
        delivery.deadline = self._loop.time() + 1e6
        super().admit(delivery)


@breaks("T8.2")
class ExpiredInTheQueueRuns(Dispatcher):
    """What expires while it waits is refused, and starts all the same."""

    def expire(self, delivery: Delivery) -> None:
        if delivery in self._running:
            super().expire(delivery)
        else:
            self._answers.refuse(delivery, clstr.EnvelopeExpiredError(delivery.envelope.shard, 1.0))
            delivery.deadline = math.inf


@breaks("T8.2")
class ExpiredOnlyAtItsTurn(Dispatcher):
    """What expires while it waits is refused when a slot is free."""

    def expire(self, delivery: Delivery) -> None:
        if delivery in self._running:
            super().expire(delivery)

    def _start(self, delivery: Delivery) -> None:
        if delivery.deadline > self._loop.time():
            super()._start(delivery)
        else:
            self._answers.refuse(delivery, clstr.EnvelopeExpiredError(delivery.envelope.shard, 1.0))


@breaks("T8.2")
class ExpiredAtItsFirstStepRuns(Dispatcher):
    """The clock is looked at when a task is created, and not when it begins."""

    async def _run(self, delivery: Delivery) -> None:
        delivery.deadline = math.inf
        await super()._run(delivery)


@breaks("T7.3")
class SlotFreedEarly(Dispatcher):
    """A handler's slot is free when its time is over, whether it has ended or not."""

    def _cancel(self, delivery: Delivery) -> None:
        super()._cancel(delivery)
        delivery.closing += 1000
        self._active -= 1
        self._start_waiting()

    def end(self, delivery: Delivery) -> None:
        if delivery.closing >= 1000:
            delivery.closing -= 1000
            self._active += 1
        super().end(delivery)


@breaks("T7.3")
class SlotLeaksOnTimeout(Dispatcher):
    """The slot of a handler that was cancelled is never free again."""

    def _cancel(self, delivery: Delivery) -> None:
        super()._cancel(delivery)
        self._active += 1


@breaks("T7.2", "T8.1", "T8.2")
class NoTtlOnTheWire(Sender):
    """The node does not learn how long it may take."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        return min(0, super()._ttl_ms(call, now))


@breaks("T8.1")
class TtlForgetsTheTimeout(Sender):
    """A request carries its TTL, not its caller's timeout."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        super()._ttl_ms(call, now)
        return call.envelope.ttl_ms


@breaks("T8.1")
class NotifyCarriesTheTimeout(Sender):
    """The timeout of a notify limits its handler too."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        call.expires = min(call.expires, call.deadline)
        return super()._ttl_ms(call, now)


class _SendsExpired(Sender):
    oneway: bool

    def _new_call(
        self, envelope: clstr.Envelope, timeout: float, now: float, inside: Current | None, *, oneway: bool
    ) -> _Call:
        call = super()._new_call(envelope, timeout, now, inside, oneway=oneway)
        if oneway == self.oneway:
            call.expires = max(call.expires, now + 0.05)  # less than any TTL of a check
        return call


@breaks("T8.3")
class ExpiredRequestSent(_SendsExpired):
    """A request is sent although its TTL is over."""

    oneway = False


@breaks("T8.3")
class ExpiredNotifySent(_SendsExpired):
    """A notify is sent although its TTL is over."""

    oneway = True
