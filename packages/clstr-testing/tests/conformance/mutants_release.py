"""Transports that break T5: letting go of shards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from clstr.abc import ReleaseReport
from clstr.errors import ClstrError
from clstr.spi import Engine
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher, Selector
from clstr.spi._subscriptions import EngineSubscription, Holders
from conformance.broken import breaks


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


@breaks("T2.2", "T3.1", "T5.1", "T5.2", "T5.4", "T12.3", "T16.1", "T17.2")
class UnsubscribeReturnsEarly(Holders):
    """A shard is let go of after the call has returned."""

    async def remove(self, *args: Any, **kwargs: Any) -> None:
        remove = super().remove
        asyncio.get_running_loop().call_later(0.001, lambda: asyncio.ensure_future(remove(*args, **kwargs)))
