"""Transports that break T5: letting go of shards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import clstr
from clstr._context import Current
from clstr.abc import ReleaseReport
from clstr.errors import ClstrError
from clstr.spi import Engine
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher, Selector
from clstr.spi._sender import Sender, _Call
from clstr.spi._subscriptions import EngineSubscription, Holders
from conformance.broken import breaks


def is_release(selects: Selector) -> bool:
    """Tell whether a subscription is closed, not the transport: the engine says it by the function that it gives."""
    return "release" in getattr(selects, "__qualname__", "")


@breaks("T5.1", "T5.2", "T5.3")
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


@breaks("T5.2", "T5.4")
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


@breaks("T2.2", "T3.1", "T3.2", "T4.1", "T5.1", "T5.2", "T5.4", "T6.1", "T12.3", "T16.1", "T17.2")
class UnsubscribeReturnsEarly(Holders):
    """A shard is let go of after the call has returned."""

    async def remove(self, *args: Any, **kwargs: Any) -> None:
        remove = super().remove
        asyncio.get_running_loop().call_later(0.001, lambda: asyncio.ensure_future(remove(*args, **kwargs)))


class _SettlesOthers(Dispatcher):
    """Closing a subscription does not wait for all of its handlers."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        if not is_release(selects):
            return await super().settle(selects, deadline)
        return await super().settle(lambda each: selects(each) and self.is_waited_for(each), deadline)

    def is_waited_for(self, delivery: Delivery) -> bool:
        """Choose."""
        raise NotImplementedError


@breaks("T5.1", "T5.2", "T5.3")
class CloseForgetsNotifies(_SettlesOthers):
    """Closing a subscription does not wait for the handlers of notifies."""

    def is_waited_for(self, delivery: Delivery) -> bool:
        return not delivery.oneway


@breaks("T5.2")
class CloseForgetsNested(_SettlesOthers):
    """Closing a subscription does not wait for the handlers of requests that handlers made."""

    def is_waited_for(self, delivery: Delivery) -> bool:
        return not delivery.depth


@breaks("T5.2")
class CloseForgetsTheQuiet(_SettlesOthers):
    """Closing a subscription does not wait for handlers of messages without data."""

    def is_waited_for(self, delivery: Delivery) -> bool:
        return bool(delivery.envelope.data)


@breaks("T5.2")
class CloseWaitsForTheFirst(Dispatcher):
    """Closing a subscription waits until one of its handlers has ended."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        concerned = [each for each in self._running if selects(each)]
        if not is_release(selects) or len(concerned) < 2:
            return await super().settle(selects, deadline)
        while not any(each.ended for each in concerned) and self._loop.time() < deadline:
            await self._settlers.wait(deadline)
        return True


@breaks("T5.2")
class CloseWaitsForTheRest(_SettlesOthers):
    """Closing a subscription waits for the handlers of other subscriptions of its shards."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        if not is_release(selects):
            return await super().settle(selects, deadline)
        shards = {each.envelope.shard for each in self._running if selects(each)}
        return await Dispatcher.settle(self, lambda each: not each.closing and each.envelope.shard in shards, deadline)


class _OnlyWholeClose(Engine):
    async def release(self, subscription: EngineSubscription, shards: frozenset[int] | None) -> ReleaseReport:
        if shards is None:
            return await super().release(subscription, shards)
        return await self.remove(subscription, shards)

    async def remove(self, subscription: EngineSubscription, shards: frozenset[int]) -> ReleaseReport:
        """Let go of some shards."""
        raise NotImplementedError


@breaks("T5.1", "T5.2", "T5.3", "T5.5")
class RemoveDoesNotWait(_OnlyWholeClose):
    """Letting go of some shards waits for no handler."""

    async def remove(self, subscription: EngineSubscription, shards: frozenset[int]) -> ReleaseReport:
        await self.holders.remove(subscription, shards, deadline=self.deadlines._loop.time() + 1)
        return ReleaseReport()


@breaks("T5.1")
class RemoveKeepsTheQueue(_OnlyWholeClose):
    """What waits for a slot when some shards have been let go of starts later."""

    async def remove(self, subscription: EngineSubscription, shards: frozenset[int]) -> ReleaseReport:
        refuse, self.dispatcher.refuse_waiting = self.dispatcher.refuse_waiting, lambda *_: 0  # type: ignore[method-assign]  # a fault
        try:
            return await super(_OnlyWholeClose, self).release(subscription, shards)
        finally:
            self.dispatcher.refuse_waiting = refuse  # type: ignore[method-assign]  # back


@breaks("T5.5")
class RemoveReportsNothing(_OnlyWholeClose):
    """Letting go of some shards tells of no handler that still runs."""

    async def remove(self, subscription: EngineSubscription, shards: frozenset[int]) -> ReleaseReport:
        await super(_OnlyWholeClose, self).release(subscription, shards)
        return ReleaseReport()


@breaks("T5.5")
class ReportsNoNotifies(Engine):
    """Closing a subscription tells of the handlers of requests alone."""

    def _report(self, left: list[Delivery]) -> ReleaseReport:
        return super()._report([each for each in left if not each.oneway])


@breaks("T5.5")
class ReportsTheFirst(Engine):
    """Closing a subscription tells of one handler that still runs."""

    def _report(self, left: list[Delivery]) -> ReleaseReport:
        return super()._report(left[:1])


@breaks("T5.1")
class QueuedNotifiesOutliveSubscription(Dispatcher):
    """A notify that still waits for a slot when a subscription has been closed starts later."""

    def refuse_waiting(self, selects: Selector, new_error: Callable[[Delivery], ClstrError]) -> int:
        if not is_release(selects):
            return super().refuse_waiting(selects, new_error)
        return super().refuse_waiting(lambda each: selects(each) and not each.oneway, new_error)


@breaks("T5.1", "T5.3", "T5.5")
class DrainTimeoutIgnored(Dispatcher):
    """Closing a subscription waits as long as the default says."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        if is_release(selects):
            deadline = self._loop.time() + 10
        return await super().settle(selects, deadline)


@breaks("T5.2", "T5.3")
class DrainIsShort(Dispatcher):
    """Closing a subscription gives up after 10 ms."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        if is_release(selects):
            deadline = min(deadline, self._loop.time() + 0.01)
        return await super().settle(selects, deadline)


@breaks("T5.4")
class CloseWaitsForItsNotify(Dispatcher):
    """The handler of a notify that closes its subscription waits for itself."""

    def begin_close(self, delivery: Delivery) -> None:
        if not delivery.oneway:
            super().begin_close(delivery)

    def end_close(self, delivery: Delivery) -> None:
        if not delivery.oneway:
            super().end_close(delivery)


@breaks("T5.4")
class CloseWaitsForItsParent(Sender):
    """A handler that closes a subscription waits for those that await its answer."""

    def _new_call(
        self, envelope: clstr.Envelope, timeout: float, now: float, inside: Current | None, *, oneway: bool
    ) -> _Call:
        call = super()._new_call(envelope, timeout, now, inside, oneway=oneway)
        call.own = None
        return call


@breaks("T5.1", "T10.1")
class QueueRefusedAsRun(Answers):
    """What was refused because its subscription closed is said to have run, perhaps."""

    def refuse(self, delivery: Delivery, error: ClstrError) -> None:
        if isinstance(error, clstr.DrainingError):
            error.maybe_executed = True
            self._fail(delivery, error)
        else:
            super().refuse(delivery, error)
