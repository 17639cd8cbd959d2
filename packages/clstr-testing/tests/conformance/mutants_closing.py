"""Transports that break T14: closing a transport."""

from __future__ import annotations

import asyncio
from contextvars import Context
from dataclasses import replace
from typing import Self

import clstr
from clstr._context import current
from clstr.errors import (
    TransportClosedError,
)
from clstr.spi import Buffer, Engine
from clstr.spi._dispatcher import Dispatcher, Selector
from clstr.spi._pending import PendingReplies
from clstr.spi._receiver import Receiver
from clstr.spi._subscriptions import EngineSubscription
from conformance.broken import breaks
from conformance.mutants_release import is_release


@breaks("T14.1")
class CloseRaisesWhileClosing(Engine):
    """A transport that closes cannot be closed."""

    async def aclose(self) -> clstr.CloseReport:
        if self.is_closing and not self._is_closed:
            raise TransportClosedError
        return await super().aclose()


@breaks("T3.1", "T3.2", "T14.1", "T14.2", "T14.3", "T14.4", "T14.5", "T14.6", "T14.7", "T14.8")
class SecondCloseRaises(Engine):
    """A transport can be closed once."""

    async def aclose(self) -> clstr.CloseReport:
        if self.is_closing:
            raise TransportClosedError
        return await super().aclose()


@breaks("T14.1")
class SecondCloseReturnsAtOnce(Engine):
    """Only the first close waits."""

    async def aclose(self) -> clstr.CloseReport:
        return clstr.CloseReport(abandoned=("?",)) if self.is_closing else await super().aclose()


@breaks("T14.2")
class CloseWaitsForItsHandler(Engine):
    """A handler that closes its transport waits for itself."""

    async def aclose(self) -> clstr.CloseReport:
        if current() is None:
            return await super().aclose()
        return await self._loop.create_task(super().aclose(), context=Context())


@breaks("T14.3")
class CallsWhileClosing(Engine):
    """A transport that closes still takes calls."""

    def check_usable(self) -> None:
        if self._is_closed:
            raise TransportClosedError


@breaks("T14.3")
class NotifiesWhileClosing(Engine):
    """A transport that closes still takes notifies."""

    _is_notifying = False

    def check_usable(self) -> None:
        if self._is_closed or not self._is_notifying:
            super().check_usable()

    async def notify(self, envelope: clstr.Envelope, *, timeout: float = 5.0) -> None:
        self._is_notifying = True
        try:
            await super().notify(envelope, timeout=timeout)
        finally:
            self._is_notifying = False


@breaks("T14.3")
class SubscribesWhileClosing(Engine):
    """A transport that closes still takes subscriptions."""

    async def hold(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        if not self.is_closing or self._is_closed:
            await super().hold(subscription, shards)


@breaks("T14.4")
class DrainingHandlersAreMute(Engine):
    """A handler that drains can make no requests."""

    def check_usable(self) -> None:
        if self.is_closing:
            raise TransportClosedError


@breaks("T14.3", "T14.4")
class ClosesWithoutDraining(Dispatcher):
    """Closing cancels what runs at once."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        return await super().settle(selects, deadline if is_release(selects) else self._loop.time())


@breaks("T14.4")
class DrainForgetsWhoWaits(Dispatcher):
    """Closing does not drain handlers that wait for a reply."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        if is_release(selects):
            return await super().settle(selects, deadline)
        return await super().settle(lambda each: selects(each) and not each.lent, deadline)


@breaks("T14.6")
class CloseHangs(Dispatcher):
    """Closing waits for handlers that ignore their cancellation."""

    async def settle(self, selects: Selector, deadline: float) -> bool:
        has_settled = await super().settle(selects, deadline)
        if has_settled or is_release(selects):
            return has_settled
        self.cancel_running(selects)
        return await super().settle(selects, deadline + 1e6)


@breaks("T14.6")
class CloseDoesNotCancel(Dispatcher):
    """Closing leaves to themselves the handlers that it has waited for."""

    def cancel_running(self, selects: Selector) -> int:
        return 0


@breaks("T14.5")
class LateArrivalsVanish(Receiver):
    """What arrives while the transport closes is dropped."""

    def request(self, shard: int, body: Buffer, to: object, read_at: float | None = None) -> None:
        if not self._engine.is_closing:
            super().request(shard, body, to, read_at)


@breaks("T14.7")
class PendingLeftAtClose(PendingReplies):
    """What is in flight when its transport closes waits on."""

    def fail_sent(self, error: type[clstr.ClstrError], message: str) -> None:
        if error is not TransportClosedError:
            super().fail_sent(error, message)


@breaks("T14.7")
class PendingAtCloseDidNotRun(PendingReplies):
    """What is in flight when its transport closes is said not to have run."""

    def fail_sent(self, error: type[clstr.ClstrError], message: str) -> None:
        if error is TransportClosedError:
            for pending in self._by_token.values():
                pending.resolve(error(message, maybe_executed=False))
        else:
            super().fail_sent(error, message)


@breaks("T14.8")
class TaskLeft(Engine):
    """A task of the transport outlives it."""

    async def open(self) -> Self:
        self.task = asyncio.create_task(asyncio.sleep(1e6))
        return await super().open()


@breaks("T14.6")
class AbandonedAreNotNamed(Engine):
    """The report of a close does not say which handlers still run."""

    async def _close(self) -> clstr.CloseReport:
        return replace(await super()._close(), abandoned=())
