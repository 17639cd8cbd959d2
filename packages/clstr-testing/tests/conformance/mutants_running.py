"""Transports that break T6: what runs, and what waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import clstr
from clstr._context import Current, current
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
from clstr.spi._sender import Sender, _Call
from clstr.spi._set_aside import Queue
from conformance.broken import breaks
from conformance.loopback import LoopbackLink


@breaks("T1.5", "T6.1", "T9.2", "T9.3", "T12.1")
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


@breaks("T6.2", "T6.5", "T7.3", "T12.2", "T17.2")
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
