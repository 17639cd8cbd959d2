"""Transports that break T13 to T16: broken links, closing, garbage, and at most once."""

from __future__ import annotations

import asyncio
import math
from contextvars import Context
from dataclasses import replace
from typing import Any, Self

import clstr
from clstr._context import current
from clstr.abc import ReleaseReport
from clstr.errors import ClstrError, DrainingError, InvalidReplyError, NotOwnerError, TransportClosedError
from clstr.spi import Buffer, Engine, Route
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher, Selector
from clstr.spi._held_answers import FIRST_PRIVATE_SHARD
from clstr.spi._link_state import LinkState
from clstr.spi._pending import AskAgain, Outcome, Pending, PendingReplies
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender, _Call
from clstr.spi._subscriptions import EngineSubscription
from conformance.broken import breaks
from conformance.loopback import LoopbackLink
from conformance.mutants_release import is_release


@breaks("T13.1")
class LossIsNotNoticed(Receiver):
    """Requests in flight wait for their timeout when the link is lost."""

    def down(self, error: Exception, *, fatal: bool = False) -> None:
        self._engine.state.down(error, fatal=fatal)


@breaks("T13.1")
class LossProvesNothingRan(PendingReplies):
    """A request that was in flight when the link was lost is said not to have run."""

    def fail_sent(self, error: type[clstr.ClstrError], message: str) -> None:
        if error is clstr.ConnectionLostError:
            for pending in self._by_token.values():
                pending.resolve(error(message, maybe_executed=False))
        else:
            super().fail_sent(error, message)


@breaks("T9.1", "T13.2", "T13.3")
class NoWaitingForTheLink(LinkState):
    """While the link is down every call fails."""

    async def wait_up(self, deadline: float, give_up: float | None = None) -> bool:
        if not self.is_up:
            raise self._error()
        return True


@breaks("T13.2", "T13.4")
class WaitsForTheLinkForEver(LinkState):
    """A call waits for the link as long as it may."""

    async def wait_up(self, deadline: float, give_up: float | None = None) -> bool:
        self._reconnect_wait = 1e6
        return await super().wait_up(deadline, math.inf if give_up else None)


@breaks("T9.1")
class WaitsForTheLinkPastTheTimeout(LinkState):
    """While it waits for the link, a call forgets its timeout."""

    async def wait_up(self, deadline: float, give_up: float | None = None) -> bool:
        return await super().wait_up(math.inf, give_up)


@breaks("T13.2")
class OutageMayHaveRun(LinkState):
    """A call that found no link is said to have run, perhaps."""

    def _error(self) -> Any:
        error = super()._error()
        error.maybe_executed = True
        return error


@breaks("T13.2", "T13.3", "T13.4")
class SubscriptionsStayAway(LoopbackLink):
    """A link that is back holds nothing."""

    def restore(self) -> None:
        self.held.clear()
        super().restore()


@breaks("T13.2", "T13.3")
class OutageForgetsSubscriptions(LoopbackLink):
    """A link that is back can hold nothing new."""

    has_been_cut = False

    def cut(self) -> None:
        self.has_been_cut = True
        super().cut()

    async def hold(self, shards: Any) -> None:
        if not self.has_been_cut:
            await super().hold(shards)


@breaks("T13.4")
class KeepsOverAnOutage(LoopbackLink):
    """What is sent before the loss is noticed is sent again when the link is back."""

    def cut(self) -> None:
        self.unsent: list[tuple[int, int, bytes]] = []
        self.life += 1
        self.hub.leave(self)
        self.hub.loop.call_later(0.001, super().cut)

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if not (self.hub.is_cut and self.is_up):
            return super().send(shard, token, body, oneway=oneway)
        self.unsent.append((shard, token, body))
        return None

    def restore(self) -> None:
        super().restore()
        self.hub.loop.call_soon(self._send_again)

    def _send_again(self) -> None:
        for shard, token, body in self.unsent:
            self.deliver(self.hub.pick(shard), shard, token, body)


@breaks("T13.1")
class SendsAgainAfterALoss(Sender):
    """A request that was in flight when the link was lost is sent again."""

    def _read(self, outcome: ClstrError | AskAgain, call: _Call, pending: Pending) -> tuple[ClstrError, float | None]:
        again = AskAgain(outcome, 0.0) if isinstance(outcome, clstr.ConnectionLostError) else outcome
        return super()._read(again, call, pending)


@breaks("T14.1")
class CloseRaisesWhileClosing(Engine):
    """A transport that closes cannot be closed."""

    async def aclose(self) -> clstr.CloseReport:
        if self.is_closing and not self._is_closed:
            raise TransportClosedError
        return await super().aclose()


@breaks("T14.1", "T14.2", "T14.3", "T14.4", "T14.5", "T14.6", "T14.7", "T14.8")
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

    def request(self, shard: int, body: Buffer, to: object) -> None:
        if not self._engine.is_closing:
            super().request(shard, body, to)


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


@breaks("T15.1")
class GarbageStopsTheReceiver(Receiver):
    """After something that cannot be read nothing is received."""

    is_dead = False

    def garbage(self, why: str) -> None:
        self.is_dead = True

    def request(self, shard: int, body: Buffer, to: object) -> None:
        if not self.is_dead:
            super().request(shard, body, to)


@breaks("T15.1")
class AnythingIsForMe(Receiver):
    """What the message says of its shard is not compared with where it came."""

    def _check(self, frame: Any, shard: int) -> clstr.Envelope:
        frame.shard = shard
        return super()._check(frame, shard)


@breaks("T15.1")
class NothingIsValidated(Receiver):
    """A message may carry headers and types that no sender of ours would send."""

    def _check(self, frame: Any, shard: int) -> clstr.Envelope:
        return clstr.Envelope(
            shard=shard, type=frame.type, data=frame.data or b"", headers=frame.headers, ttl_ms=frame.ttl_ms
        )


@breaks("T15.3")
class AnythingIsAReply(Receiver):
    """What cannot be read as a reply is taken for an empty one."""

    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        return super()._read_reply(pending, body) or b""


@breaks("T15.3")
class WhatIsNoReplyEndsTheRequest(Receiver):
    """What cannot be read as a reply is an error for the caller."""

    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        outcome = super()._read_reply(pending, body)
        return InvalidReplyError("no reply") if outcome is None else outcome


@breaks("T15.2")
class CancelledErrorStopsTheReceiver(Answers):
    """A handler that cancels itself cancels who called it."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        super().handler_raised(delivery, error)
        if isinstance(error, asyncio.CancelledError):
            self._link.sink.request = lambda *_: None  # type: ignore[attr-defined]  # nobody reads any more


@breaks("T15.2")
class CancelledErrorLeaksASlot(Answers):
    """A handler that cancels itself keeps its slot."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        super().handler_raised(delivery, error)
        if isinstance(error, asyncio.CancelledError):
            delivery.dispatcher._active += 1


class _RefusesWhatRuns(Engine):
    error: type[DrainingError | NotOwnerError]

    async def release(self, subscription: EngineSubscription, shards: frozenset[int] | None) -> ReleaseReport:
        for each in self.dispatcher.running():
            if each.subscription is subscription:
                self.answers.refuse(each, self.error(each.envelope.shard))
        return await super().release(subscription, shards)


@breaks("T5.1", "T5.2", "T5.3", "T5.4", "T5.5", "T16.1", "T16.2")
class MovingIsARefusal(_RefusesWhatRuns):
    """A subscription that lets go of a shard refuses what it runs."""

    error = DrainingError


@breaks("T5.1", "T5.2", "T5.3", "T5.4", "T5.5", "T16.1", "T16.2")
class MovingSendsAgain(_RefusesWhatRuns):
    """A subscription that lets go of a shard sends elsewhere what it runs."""

    error = NotOwnerError


class _LateLink(LoopbackLink):
    def deliver(self, peer: LoopbackLink, shard: int, token: int, body: bytes) -> None:
        self.hub.loop.call_later(0.0001, super().deliver, peer, shard, token, body)


@breaks("T5.1", "T14.5", "T16.1", "T16.2", with_=(_LateLink,))
class MovingLoses(Receiver):
    """What arrives for a shard that has been let go of vanishes."""

    def _receive(self, shard: int, body: Buffer, to: object) -> None:
        if shard >= FIRST_PRIVATE_SHARD or self._engine.holders.pick(shard) is not None:
            super()._receive(shard, body, to)
