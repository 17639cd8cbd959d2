"""Transports that break T8: how long a message may wait and run."""

from __future__ import annotations

import math
import time

import clstr
from clstr._context import Current
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
from clstr.spi._sender import Sender, _Call
from conformance.broken import breaks


@breaks("T6.1", "T6.2", "T6.4", "T7.2", "T8.2", "T9.2")
class TtlIgnored(Dispatcher):
    """The node does not look at the TTL."""

    def admit(self, delivery: Delivery) -> None:
        delivery.deadline = self._loop.time() + 1e6
        super().admit(delivery)


@breaks("T6.1", "T6.4", "T8.2", "T9.2")
class ExpiredInTheQueueRuns(Dispatcher):
    """What expires while it waits is refused, and starts all the same."""

    def expire(self, delivery: Delivery) -> None:
        if delivery in self._running:
            super().expire(delivery)
        else:
            self._answers.refuse(delivery, clstr.EnvelopeExpiredError(delivery.envelope.shard, 1.0))
            delivery.deadline = math.inf


@breaks("T6.2", "T8.2")
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


@breaks("T6.1", "T6.2", "T6.4", "T7.2", "T8.1", "T8.2", "T9.2")
class NoTtlOnTheWire(Sender):
    """The node does not learn how long it may take."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        return min(0, super()._ttl_ms(call, now))


@breaks("T6.4", "T8.1", "T9.2")
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


@breaks("T8.1")
class TtlForgetsItsAge(Sender):
    """A message carries its whole TTL, however old it is."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        left = super()._ttl_ms(call, now)
        return left if call.deadline - now < left / 1000 + 0.01 and not call.oneway else call.envelope.ttl_ms


@breaks("T8.1")
class NotifyTtlForgetsItsAge(Sender):
    """A notify carries its whole TTL, however old it is."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        left = super()._ttl_ms(call, now)
        return call.envelope.ttl_ms if call.oneway else left


@breaks("T6.1", "T7.2", "T8.1", "T8.2", "T9.2")
class NotifyHasNoTtl(Sender):
    """A notify has no TTL."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        left = super()._ttl_ms(call, now)
        return 0 if call.oneway else left


@breaks("T8.1")
class NotifyWithoutTtlGetsTheTimeout(Sender):
    """A notify without a TTL has its caller's timeout for one."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        left = super()._ttl_ms(call, now)
        return int(call.timeout * 1000) if call.oneway and not left else left


@breaks("T8.1")
class TtlHas32Bits(Sender):
    """A TTL has 32 bits."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        return super()._ttl_ms(call, now) % 2**32


@breaks("T8.1")
class TtlOfWholeSeconds(Sender):
    """A TTL is rounded to whole seconds."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        left = super()._ttl_ms(call, now)
        return left if left < 1000 else left // 1000 * 1000


@breaks("T8.1")
class TtlOfADayAtMost(Sender):
    """A TTL is a day at most."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        return min(super()._ttl_ms(call, now), 24 * 3600 * 1000)


@breaks("T6.1", "T7.2", "T8.2", "T9.2")
class ExpiredNotifyRuns(Dispatcher):
    """A notify that expires while it waits runs all the same."""

    def admit(self, delivery: Delivery) -> None:
        if delivery.oneway:
            delivery.deadline = math.inf
        super().admit(delivery)


@breaks("T6.4", "T8.2")
class ExpiredNestedRuns(Dispatcher):
    """A request that a handler made, and that expires while it waits, runs all the same."""

    def admit(self, delivery: Delivery) -> None:
        if delivery.depth:
            delivery.deadline = math.inf
        super().admit(delivery)


@breaks("T8.2")
class NotifyExpiredAtItsFirstStepRuns(Dispatcher):
    """The clock is looked at when a notify's task is created, and not when it begins."""

    async def _run(self, delivery: Delivery) -> None:
        if delivery.oneway and delivery.task is not None:
            delivery.deadline = math.inf
        await super()._run(delivery)


@breaks("T8.2", "T10.1", "T10.2")
class ExpiryIsNoRefusal(Answers):
    """A message that expired may have run, so it is said."""

    def refuse(self, delivery: Delivery, error: clstr.ClstrError) -> None:
        super().refuse(delivery, error) if not isinstance(error, clstr.EnvelopeExpiredError) else self._fail(
            delivery, clstr.HandlerTimeoutError(delivery.envelope.shard, 0.1)
        )


class _SendsSomeExpired(Sender):
    """Some of what has expired is sent."""

    def _ttl_ms(self, call: _Call, now: float) -> int:
        if call.expires <= now and self.is_sent(call):
            call.expires = now + 1
        return super()._ttl_ms(call, now)

    def is_sent(self, call: _Call) -> bool:
        """Choose."""
        raise NotImplementedError


@breaks("T8.3")
class LongExpiredIsSent(_SendsSomeExpired):
    """What expired more than a minute ago is sent."""

    def is_sent(self, call: _Call) -> bool:
        age = time.time_ns() // 1_000_000 - call.envelope.created_at_ms
        return age > call.envelope.ttl_ms + 60_000


@breaks("T8.3")
class JustExpiredIsSent(_SendsSomeExpired):
    """What expired less than a second ago is sent."""

    def is_sent(self, call: _Call) -> bool:
        age = time.time_ns() // 1_000_000 - call.envelope.created_at_ms
        return age < call.envelope.ttl_ms + 1000


@breaks("T8.3")
class ExpiredInAnOutageIsSent(_SendsSomeExpired):
    """What expires while it waits for the link is sent."""

    def is_sent(self, call: _Call) -> bool:
        return not call.envelope.created_at_ms


@breaks("T8.3")
class NotifyExpiredInAnOutageIsSent(_SendsSomeExpired):
    """A notify that expires while it waits for the link is sent."""

    def is_sent(self, call: _Call) -> bool:
        return call.oneway and not call.envelope.created_at_ms
