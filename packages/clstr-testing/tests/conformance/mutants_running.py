"""Transports that break T6: what runs, and what waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import clstr
from clstr._context import Current, current
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
from clstr.spi._sender import Sender, _Call
from clstr.spi._set_aside import Queue
from conformance.broken import breaks
from conformance.loopback import LoopbackLink


@breaks("T1.5", "T5.2", "T5.5", "T6.1", "T6.4", "T9.2", "T9.3", "T12.1")
class SerialWithinAShard(Dispatcher):
    """Handlers of one shard run one after the other."""

    def _has_slot(self, delivery: Delivery) -> bool:
        busy = {each.envelope.shard for each in self._running if not each.lent}
        return super()._has_slot(delivery) and delivery.envelope.shard not in busy


@breaks("T5.1", "T6.1", "T6.2", "T6.3", "T6.4", "T6.5", "T7.2", "T7.3", "T8.2", "T12.2")
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


@breaks("T6.2", "T6.5", "T7.2", "T7.3", "T12.2")
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


@breaks("T6.2", "T6.5", "T7.2", "T7.3", "T12.2", "T17.2")
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


@breaks("T6.2", "T6.3", "T6.4", "T6.5")
class SlotsAreNotLent(Dispatcher):
    """A handler keeps its slot while it waits for a reply."""

    def lend(self, delivery: Delivery) -> None:
        """Do nothing."""

    def reclaim(self, delivery: Delivery) -> None:
        """Do nothing."""


@breaks("T6.2", "T6.3", "T6.4", "T6.5")
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


@breaks("T6.2", "T6.4", "T6.5")
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


@breaks("T5.4", "T6.2", "T6.3", "T6.4", "T6.5")
class NoDepthOnTheWire(Sender):
    """A request made inside a handler looks like one from outside."""

    def _new_call(
        self, envelope: clstr.Envelope, timeout: float, now: float, inside: Current | None, *, oneway: bool
    ) -> _Call:
        return super()._new_call(envelope, timeout, now, None, oneway=oneway)


@breaks("T6.1", "T7.2")
class SlotsPerShard(Dispatcher):
    """So many handlers run for each shard."""

    def _has_slot(self, delivery: Delivery) -> bool:
        busy = sum(each.envelope.shard == delivery.envelope.shard for each in self._running if not each.lent)
        active, self._active = self._active, busy
        has_slot = super()._has_slot(delivery)
        self._active = active
        return has_slot


@breaks("T5.1", "T6.1", "T6.2", "T6.3", "T8.2", "T12.2")
class NotifiesTakeNoSlot(Dispatcher):
    """Any number of notifies runs."""

    def _has_slot(self, delivery: Delivery) -> bool:
        return delivery.oneway or super()._has_slot(delivery)


@breaks("T6.1", "T9.3", "T12.1")
class AtMostFiftyRun(Dispatcher):
    """However many handlers may run, fifty do."""

    def _has_slot(self, delivery: Delivery) -> bool:
        return super()._has_slot(delivery) and self._active < 50


@breaks("T5.2", "T5.3", "T5.5", "T6.1", "T6.4", "T9.2", "T12.2", "T17.2")
class FailedHandlersKeepTheirSlot(Dispatcher):
    """The slot of a handler that raises is never free again."""

    async def _run(self, delivery: Delivery) -> None:
        handler = delivery.subscription.handler

        async def noting(envelope: clstr.Envelope) -> bytes | None:
            try:
                return await handler(envelope)
            except Exception:
                self._active += 1
                raise

        delivery.subscription = SimpleNamespace(handler=noting)  # type: ignore[assignment]  # a fault
        await super()._run(delivery)


@breaks("T1.1", "T5.1", "T6.1", "T6.2", "T6.4", "T17.1", "T17.2")
class NotifiesKeepTheirSlot(Dispatcher):
    """The slot of one notify in three is never free again."""

    count = 0

    def end(self, delivery: Delivery) -> None:
        super().end(delivery)
        self.count += delivery.oneway
        if delivery.oneway and self.count % 3 == 0:
            self._active += 1


@breaks("T6.4")
class FailedCallsKeepTheSlotLent(Sender):
    """A handler whose own request fails takes no slot any more."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        try:
            return await super().exchange(envelope, timeout, oneway=oneway)
        except clstr.ClstrError:
            inside = current()
            if inside is not None and not oneway:
                inside.lend()
            raise


@breaks("T6.4")
class SecondCallKeepsTheSlot(Dispatcher):
    """A handler lends its slot for its first request alone."""

    def lend(self, delivery: Delivery) -> None:
        if delivery.since >= 0:
            super().lend(delivery)
        else:
            delivery.lent += 1

    def reclaim(self, delivery: Delivery) -> None:
        if delivery.since >= 0:
            super().reclaim(delivery)
            delivery.since = -1
        else:
            delivery.lent -= 1


@breaks("T6.2", "T12.2")
class NotifiesFindRoom(Dispatcher):
    """Any number of notifies waits."""

    def admit(self, delivery: Delivery) -> None:
        limits = self._limits
        if delivery.oneway:
            self._limits = replace(limits, max_queue=10**9)
        super().admit(delivery)
        self._limits = limits


@breaks("T6.3")
class NotifyBytesFindRoom(Dispatcher):
    """Any number of bytes of notifies waits."""

    def admit(self, delivery: Delivery) -> None:
        limits = self._limits
        if delivery.oneway:
            self._limits = replace(limits, max_queue_bytes=10**9)
        super().admit(delivery)
        self._limits = limits


@breaks("T6.2", "T6.5")
class NestedQueueUnbounded(Dispatcher):
    """Any number of nested requests waits."""

    def admit(self, delivery: Delivery) -> None:
        limits = self._limits
        if delivery.depth:
            self._limits = replace(limits, max_queue=10**9)
        super().admit(delivery)
        self._limits = limits


@breaks("T6.3")
class NestedBytesUnbounded(Dispatcher):
    """Any number of bytes of nested requests waits."""

    def admit(self, delivery: Delivery) -> None:
        limits = self._limits
        if delivery.depth:
            self._limits = replace(limits, max_queue_bytes=10**9)
        super().admit(delivery)
        self._limits = limits


@breaks("T6.3")
class NestedBytesCountOnce(Dispatcher):
    """Bytes of nested requests count with those from outside."""

    def _enqueue(self, queue: Queue, delivery: Delivery) -> None:
        super()._enqueue(queue, delivery)
        if delivery.depth:
            self._held_bytes[False] += delivery.size

    def _dequeue(self, delivery: Delivery) -> None:
        if delivery.depth:
            self._held_bytes[False] -= delivery.size
        super()._dequeue(delivery)


@breaks("T6.2")
class ExpiredKeepTheirPlace(Dispatcher):
    """The place of a message that expired while it waited is never free again."""

    def _refuse_waiting(self, delivery: Delivery, error: clstr.ClstrError) -> None:
        super()._refuse_waiting(delivery, error)
        self._limits = replace(self._limits, max_queue=self._limits.max_queue - 1)


@breaks("T6.2", "T6.5", "T7.2")
class OneMoreWaits(Dispatcher):
    """One message too many waits."""

    def admit(self, delivery: Delivery) -> None:
        limits = self._limits
        if limits.max_queue:
            self._limits = replace(limits, max_queue=limits.max_queue + 1)
        super().admit(delivery)
        self._limits = limits


@breaks("T6.3")
class SmallMessagesHaveNoBytes(Dispatcher):
    """Messages below a kilobyte count for nothing."""

    def admit(self, delivery: Delivery) -> None:
        if delivery.size < 1000:
            delivery.size = 0
        super().admit(delivery)


@breaks("T6.4", "T6.5")
class DepthEndsAtTheNextPeer(Sender):
    """A request made inside a handler that another peer asked looks like one from outside."""

    def _new_call(
        self, envelope: clstr.Envelope, timeout: float, now: float, inside: Current | None, *, oneway: bool
    ) -> _Call:
        if inside is not None and inside.depth:
            inside = None
        return super()._new_call(envelope, timeout, now, inside, oneway=oneway)


@breaks("T6.2", "T6.3", "T6.4", "T6.5")
class DepthOfChildTasksLost(Sender):
    """A request made in a task that a handler started looks like one from outside."""

    def _new_call(
        self, envelope: clstr.Envelope, timeout: float, now: float, inside: Current | None, *, oneway: bool
    ) -> _Call:
        if isinstance(inside, Delivery) and inside.task is not None and asyncio.current_task() is not inside.task:
            inside = None
        return super()._new_call(envelope, timeout, now, inside, oneway=oneway)


@breaks("T6.2", "T6.5", "T7.2", "T7.3", "T12.2")
class RefusedOnlyAfterAWait(Dispatcher):
    """What the queue has no room for is refused when a handler has ended."""

    late: tuple[Delivery, ...] = ()

    def end(self, delivery: Delivery) -> None:
        super().end(delivery)
        late, self.late = self.late, ()
        for each in late:
            self._answers.refuse(each, clstr.OverloadedError("max_queue", self._limits.max_queue))

    def admit(self, delivery: Delivery) -> None:
        if self._has_slot(delivery) or len(self._queue_of(delivery)) < self._limits.max_queue or self._active == 0:
            super().admit(delivery)
        else:
            self.late = *self.late, delivery
