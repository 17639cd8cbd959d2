"""Transports that break T7: how long a handler may take."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from types import SimpleNamespace

import clstr
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
from conformance.broken import breaks

MOMENT = 1e-5  # seconds: ten turns of a loop in virtual time, in which a handler that obeys has ended


@breaks("T7.1", "T7.3", "T16.1")
class HandlerTimeoutIgnored(Dispatcher):
    """A handler may take as long as its message's TTL allows."""

    def _start(self, delivery: Delivery) -> None:
        self._limits = replace(self._limits, handler_timeout=1e6)
        super()._start(delivery)


@breaks("T6.1", "T6.4", "T7.1", "T7.2", "T7.3", "T9.2", "T14.6")
class HandlerIsNotCancelled(Dispatcher):
    """A handler's caller learns that its time is over, the handler does not."""

    def _cancel(self, delivery: Delivery) -> None:
        self._answers.handler_timed_out(delivery)


@breaks("T6.1", "T7.1", "T7.2", "T7.3", "T8.2", "T14.6", "T16.1")
class HandlerTimeoutIsSilent(Dispatcher):
    """A handler is cancelled in time, but its caller hears nothing."""

    def _cancel(self, delivery: Delivery) -> None:
        delivery.answered = True
        super()._cancel(delivery)


@breaks("T6.1", "T6.4", "T7.2", "T8.2", "T9.2")
class TtlEndsAtTheStart(Dispatcher):
    """What has started in time may run as long as any other."""

    def _start(self, delivery: Delivery) -> None:
        delivery.deadline = math.inf
        super()._start(delivery)


@breaks("T7.3")
class SlotFreedEarly(Dispatcher):
    """A handler's slot is free when its time is over, whether it has ended or not."""

    def _cancel(self, delivery: Delivery) -> None:
        super()._cancel(delivery)
        self._loop.call_later(MOMENT, self.free, delivery)

    def free(self, delivery: Delivery) -> None:
        """Free the slot of a handler that ignores its cancellation."""
        if not delivery.ended:
            delivery.closing += 1000
            self._active -= 1
            self._start_waiting()

    def end(self, delivery: Delivery) -> None:
        if delivery.closing >= 1000:
            delivery.closing -= 1000
            self._active += 1
        super().end(delivery)


@breaks("T6.1", "T6.4", "T7.1", "T7.3", "T9.2")
class SlotLeaksOnTimeout(Dispatcher):
    """The slot of a handler that was cancelled is never free again."""

    def _cancel(self, delivery: Delivery) -> None:
        super()._cancel(delivery)
        self._active += 1


@breaks("T7.1")
class TimeoutCountsFromArrival(Dispatcher):
    """What a message has waited is taken from its handler's time."""

    def _start(self, delivery: Delivery) -> None:
        limits, now = self._limits, self._loop.time()
        waited = now - (now if delivery.received is None else delivery.received)
        self._limits = replace(limits, handler_timeout=max(0.001, limits.handler_timeout - waited))
        super()._start(delivery)
        self._limits = limits


@breaks("T7.1", "T7.3")
class NotifiesMayTakeLong(Dispatcher):
    """The handler of a notify may take any time."""

    def _start(self, delivery: Delivery) -> None:
        limits = self._limits
        if delivery.oneway:
            self._limits = replace(limits, handler_timeout=1e6)
        super()._start(delivery)
        self._limits = limits


@breaks("T7.1")
class NestedMayTakeLong(Dispatcher):
    """The handler of a request that a handler made may take as long as its caller waits."""

    def _start(self, delivery: Delivery) -> None:
        limits = self._limits
        if delivery.depth:
            self._limits = replace(limits, handler_timeout=1e6)
        super()._start(delivery)
        self._limits = limits


@breaks("T7.1", "T7.3", "T16.1")
class OneInThreeMayTakeLong(Dispatcher):
    """One handler in three may take any time."""

    count = 0

    def _start(self, delivery: Delivery) -> None:
        limits = self._limits
        self.count += 1
        if self.count % 3 == 0:
            self._limits = replace(limits, handler_timeout=1e6)
        super()._start(delivery)
        self._limits = limits


@breaks("T7.1")
class WhoWaitsMayTakeLong(Dispatcher):
    """The time of a handler that waits for a reply does not pass."""

    def expire(self, delivery: Delivery) -> None:
        if delivery.lent:
            delivery.tick = self._deadlines.add(self._loop.time() + 0.05, delivery)
        else:
            super().expire(delivery)


@breaks("T5.2", "T5.3", "T5.5", "T7.1", "T7.3", "T14.6", "T15.2")
class LateAnswersCount(Dispatcher):
    """A handler that was cancelled because its time is over, and answers all the same, has answered."""

    def _cancel(self, delivery: Delivery) -> None:
        delivery.since = -1
        self._cancel_task(delivery)

    async def _run(self, delivery: Delivery) -> None:
        handler = delivery.subscription.handler

        async def noting(envelope: clstr.Envelope) -> bytes | None:
            try:
                return await handler(envelope)
            except asyncio.CancelledError:
                self._answers.handler_timed_out(delivery)
                raise

        delivery.subscription = SimpleNamespace(handler=noting)  # type: ignore[assignment]  # a fault
        await super()._run(delivery)


@breaks("T6.1", "T7.2", "T8.2", "T9.2")
class NotifyTtlEndsAtTheStart(Dispatcher):
    """A notify that has started in time may run as long as any other."""

    def _start(self, delivery: Delivery) -> None:
        if delivery.oneway:
            delivery.deadline = math.inf
        super()._start(delivery)


@breaks("T7.2")
class TtlBeginsAgainAtTheStart(Dispatcher):
    """What a message has waited is not taken from its TTL."""

    def _start(self, delivery: Delivery) -> None:
        if delivery.envelope.ttl_ms:
            delivery.deadline = self._loop.time() + delivery.envelope.ttl_ms / 1000
        super()._start(delivery)


@breaks("T7.3")
class NotifySlotFreedEarly(SlotFreedEarly):
    """The slot of a notify is free when its time is over, whether its handler has ended or not."""

    def free(self, delivery: Delivery) -> None:
        if delivery.oneway:
            super().free(delivery)


@breaks("T6.1", "T7.1", "T7.3")
class NotifySlotLeaksOnTimeout(Dispatcher):
    """The slot of a notify whose time is over is never free again."""

    def _cancel(self, delivery: Delivery) -> None:
        super()._cancel(delivery)
        self._active += delivery.oneway
