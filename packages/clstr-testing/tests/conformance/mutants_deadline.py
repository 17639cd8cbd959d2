"""Transports that break T7 and T8: how long a message may take, and how long it may wait."""

from __future__ import annotations

import math
from dataclasses import replace

import clstr
from clstr._context import Current
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
from clstr.spi._sender import Sender, _Call
from conformance.broken import breaks


@breaks("T7.1", "T7.3", "T16.1")
class HandlerTimeoutIgnored(Dispatcher):
    """A handler may take as long as its message's TTL allows."""

    def _start(self, delivery: Delivery) -> None:
        self._limits = replace(self._limits, handler_timeout=1e6)
        super()._start(delivery)


@breaks("T7.1", "T7.2", "T9.2", "T14.6")
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


@breaks("T7.2", "T8.2", "T9.2")
class TtlEndsAtTheStart(Dispatcher):
    """What has started in time may run as long as any other."""

    def _start(self, delivery: Delivery) -> None:
        delivery.deadline = math.inf
        super()._start(delivery)


@breaks("T7.2", "T8.2", "T9.2")
class TtlIgnored(Dispatcher):
    """The node does not look at the TTL."""

    def admit(self, delivery: Delivery) -> None:
        delivery.deadline = self._loop.time() + 1e6
        super().admit(delivery)


@breaks("T8.2", "T9.2")
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
        if delivery.task is not None:  # an eager first step is taken inside of the start: there is nothing to skip
            delivery.deadline = math.inf
        await super()._run(delivery)


@breaks("T7.3", "T9.2")
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


@breaks("T7.3", "T9.2")
class SlotLeaksOnTimeout(Dispatcher):
    """The slot of a handler that was cancelled is never free again."""

    def _cancel(self, delivery: Delivery) -> None:
        super()._cancel(delivery)
        self._active += 1


@breaks("T7.2", "T8.1", "T8.2", "T9.2")
class NoTtlOnTheWire(Sender):
    """The node does not learn how long it may take."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        return min(0, super()._ttl_ms(call, now))


@breaks("T8.1", "T9.2")
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
