"""
The engine: the one implementation of the transport contract. A plugin gives it a `Link`.

    request ->  Sender -> PendingReplies, codec -> Link.send
    reply   <-  Receiver.answer <- Link
    message ->  Receiver.request -> Holders (gate) -> Dispatcher (admission) -> handler -> Answers -> Link.reply
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Self

from clstr._context import current
from clstr._limits import Limits
from clstr._messages.cluster_name import check_cluster_name
from clstr._messages.envelope import Envelope
from clstr._messages.hints import check_async
from clstr._messages.wire import CODECS
from clstr.abc import CloseReport, Handler, ReleaseReport, Transport, TransportStats
from clstr.errors import DrainingError, TransportClosedError
from clstr.spi._answer_budget import AnswerBudget
from clstr.spi._answers import Answers
from clstr.spi._bounded import bounded
from clstr.spi._counters import Counters
from clstr.spi._deadlines import Deadlines
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
from clstr.spi._link import Link
from clstr.spi._link_state import LinkState
from clstr.spi._links import forks as _forks
from clstr.spi._loop_lag import LoopLag
from clstr.spi._payload_limit import PayloadLimit
from clstr.spi._pending import PendingReplies
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender
from clstr.spi._subscriptions import EngineSubscription, Holders

# aclose returns within drain_timeout + 2 s (T14); these are its share of the 2 s.
DROP_TIMEOUT = 0.2  # even with a drain_timeout of 0 the link must learn of it
CANCEL_GRACE = 1.0
FLUSH_TIMEOUT = 0.4  # at least
LINK_CLOSE_TIMEOUT = 0.4

MAX_NAMED = 10  # handlers that one log line names: there may be thousands


class Engine(Transport):
    """
    A transport over a link. Bound to the loop and the process that opened it.

    Args:
        link: What carries the messages; the engine opens and closes it.
        limits: The bounds of the contract.
        codec: ``"msgpack"`` or ``"json"``, for what is sent; what arrives may be either.
        logger: Never told payloads or header values.

    Raises:
        ValueError: There is no such codec.

    Attributes:
        is_closing: Whether `aclose` has begun.
        cluster: The name of the cluster that it is in; empty is a cluster without a name.
        has_go_peers: Whether a reply came that our own nodes do not write, but clstr-go's do.
        state: Whether the link is up. This and what follows are parts of the engine, and no interface.
        deadlines: What ends when its time is over.
        pending: The requests that wait for a reply.
        holders: Which subscription holds which shard.
        answer_budget: The bytes of answers that wait to leave.
        answers: What sends the replies of handlers.
        dispatcher: What starts and ends handlers.
        lag: What measures how late the loop runs.
        counters: What it has counted, for `stats`.
    """

    def __init__(
        self,
        link: Link,
        *,
        limits: Limits | None = None,
        codec: str = "msgpack",
        logger: logging.Logger | None = None,
    ) -> None:
        if codec not in CODECS:
            raise ValueError(f"codec must be one of {', '.join(sorted(CODECS))}, not {codec!r}")
        self._loop = asyncio.get_running_loop()
        self._forks = _forks.count
        self._logger = logger or logging.getLogger("clstr.transport")
        self._codec = CODECS[codec]
        self._closing: asyncio.Task[CloseReport] | None = None
        self._closers: set[Delivery] = set()
        self._is_closed = False
        self.is_closing: bool = False
        self.cluster: str = ""
        self.has_go_peers: bool = False
        self.link: Link = link
        self.limits: Limits = limits or Limits()
        self.counters: Counters = Counters()
        self.state: LinkState = LinkState(self._loop, self.limits.reconnect_wait, self._logger, self.counters)
        self.deadlines: Deadlines = Deadlines(self._loop)
        self.pending: PendingReplies = PendingReplies(self._loop, self.limits, self.deadlines, self.counters)
        self.holders: Holders = Holders(link, self.counters, self._logger)
        self._payload_limit = PayloadLimit(link, self.limits, self._codec)
        self.answer_budget: AnswerBudget = AnswerBudget(self._has_room_for_answers)
        self.answers: Answers = Answers(
            link,
            self.counters,
            self._logger,
            payload_limit=self._payload_limit,
            deadlines=self.deadlines,
            budget=self.answer_budget,
            clock=self._loop.time,
            patience=self.limits.handler_timeout,
        )
        self.lag: LoopLag = LoopLag(
            self._loop, self.counters, self._logger, is_needed=self._has_work, running=self._names_of_running
        )
        self.dispatcher: Dispatcher = Dispatcher(
            self._loop,
            self.limits,
            self.deadlines,
            self.answers,
            budget=self.answer_budget,
            destination_of=link.destination,
            lag=self.lag,
        )
        self._receiver = Receiver(self, self._loop, self._codec, self._logger)
        self._sender = Sender(self, self._loop, self._codec, self._payload_limit)

    def join_cluster(self, name: str) -> None:
        """
        Be in the cluster ``name``; see `clstr.abc.Transport.join_cluster`.

        Raises:
            TypeError: It is not a str.
            ValueError: It is empty, too long, or has other characters.
        """
        self.cluster = check_cluster_name(name)

    async def open(self) -> Self:
        """
        Open the link and return the engine, ready for use.

        Raises:
            ClstrError: What `Link.open` raised; the link is closed then.
        """
        try:
            await self.link.open(self._receiver)
        except BaseException:
            await bounded(self.link.aclose(), LINK_CLOSE_TIMEOUT, "closing the link", self._logger)
            raise
        self.state.opened()
        return self

    @property
    def max_payload_bytes(self) -> int:
        """The data bytes that one request or reply may have (T1): it follows the broker's limit."""
        return self._payload_limit.current()

    def request(self, envelope: Envelope, *, timeout: float = 5.0) -> Coroutine[Any, Any, bytes]:
        """
        Send ``envelope`` to the owner of its shard and wait for the reply; see `clstr.abc.ClientTransport.request`.

        Args:
            envelope: Must not be expired.
            timeout: Seconds, finite and above 0, counted from the call; waiting for a lost link included.

        Raises:
            ClstrError: Anything of the transport contract.
            TransportClosedError: The engine is closed, or closing.
            RuntimeError: In another process, or on another loop, than it was opened in.
            TypeError: ``timeout`` is not a number.
            ValueError: ``timeout`` is not finite and above 0.
        """
        # The coroutine itself, which checks everything: one more around it would only take time.
        return self._sender.exchange(envelope, timeout, oneway=False)

    async def notify(self, envelope: Envelope, *, timeout: float = 5.0) -> None:
        """
        Send ``envelope`` to the owner of its shard; see `clstr.abc.ClientTransport.notify`.

        Args:
            envelope: Must not be expired.
            timeout: Seconds, finite and above 0, in which it must be on its way.

        Raises:
            ClstrError: Anything of the transport contract, but for what the handler does.
            TransportClosedError: The engine is closed, or closing.
            RuntimeError: In another process, or on another loop, than it was opened in.
            TypeError: ``timeout`` is not a number.
            ValueError: ``timeout`` is not finite and above 0.
        """
        await self._sender.exchange(envelope, timeout, oneway=True)

    async def subscribe(self, shards: Iterable[int], handler: Handler) -> EngineSubscription:
        """
        Hold ``shards`` and run ``handler`` for their messages; see `clstr.abc.ServerTransport.subscribe`.

        Raises:
            TypeError: ``handler`` cannot be called, or a shard is not an int.
            ValueError: A shard is out of its bounds.
            ClstrError: What `hold` raises.
        """
        if not callable(handler):
            raise TypeError(f"handler must be an async function, not {handler!r}")
        check_async(handler, "the handler")
        subscription = EngineSubscription(self, handler)
        await subscription.add(shards)
        return subscription

    async def hold(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        """
        Let ``subscription`` hold ``shards`` too.

        Raises:
            TransportClosedError: The engine is closed, or closing.
            TransportUnavailableError: The link is down and did not come back in ``reconnect_wait`` seconds.
            ClstrError: What else `Link.hold` raised.
            RuntimeError: In another process, or on another loop, than it was opened in.
        """
        self.check_usable()
        if not self.state.is_up:
            await self.state.wait_up(math.inf)
        await self.holders.add(subscription, shards)

    async def release(self, subscription: EngineSubscription, shards: frozenset[int] | None) -> ReleaseReport:
        """
        Let ``subscription`` go of ``shards``, or all, and wait for their messages, ``drain_timeout`` at most (T5).

        Raises:
            RuntimeError: In another process, or on another loop, than it was opened in.
        """
        self._check_here()
        now = self._loop.time()
        deadline = now + self.limits.drain_timeout

        def is_chosen(each: Delivery) -> bool:
            return each.subscription is subscription and (shards is None or each.envelope.shard in shards)

        with self._not_waiting_for_caller() as caller:

            def concerns(each: Delivery) -> bool:
                is_waiting_for_this = each.closing or (caller is not None and each.has_led_to(caller))
                return is_chosen(each) and not is_waiting_for_this

            await self.holders.remove(subscription, shards, deadline=max(deadline, now + DROP_TIMEOUT))
            if not await self.dispatcher.settle(concerns, deadline):
                self.dispatcher.refuse_waiting(concerns, lambda each: DrainingError(each.envelope.shard))
            return self._report([each for each in self.dispatcher.revoke(is_chosen) if concerns(each)])

    def _report(self, left: list[Delivery]) -> ReleaseReport:
        """Say which handlers of released shards still run."""
        running = tuple(sorted(str(each) for each in left if each.has_run))
        if running:
            text = "shards are released, but %d of their handlers still run after drain_timeout, %g s: %s"
            some = "; ".join([*running[:MAX_NAMED], *(["..."] if len(running) > MAX_NAMED else [])])
            self._logger.warning(text, len(running), self.limits.drain_timeout, some)
        return ReleaseReport(running=running)

    def _has_work(self) -> bool:
        return bool(len(self.pending)) or self.dispatcher.is_running()

    def _names_of_running(self, count: int) -> list[str]:
        return [str(delivery) for delivery in islice(self.dispatcher.running(), count)]

    def _has_room_for_answers(self) -> None:
        self.dispatcher.resume()

    def stats(self) -> TransportStats:
        """Return what this engine has counted, and what it holds now; also after `aclose`."""
        counted = self.counters
        return TransportStats(
            sent=counted.sent,
            received=counted.received,
            refused=dict(counted.refused),
            handler_timeouts=counted.handler_timeouts,
            notify_failures=counted.notify_failures,
            rerouted=counted.rerouted,
            late_replies=counted.late_replies,
            dropped_replies=counted.dropped_replies,
            foreign_replies=counted.foreign_replies,
            foreign_requests=counted.foreign_requests,
            garbage=counted.garbage,
            reconnects=counted.reconnects,
            loop_stalls=counted.loop_stalls,
            longest_loop_lag=counted.longest_loop_lag,
            handlers=self.dispatcher.active,
            queue_depth=self.dispatcher.waiting,
            queue_bytes=self.dispatcher.waiting_bytes,
            requests_in_flight=len(self.pending),
            bytes_in_flight=self.pending.inflight_bytes,
            answer_bytes=self.answer_budget.total_bytes,
            is_up=self.state.is_up,
            link=dict(self.link.stats()),
        )

    async def wait_closed(self) -> None:
        """
        Return when `aclose` has begun; raise what ended the link if it is lost for good.

        Raises:
            RuntimeError: In another process, or on another loop, than it was opened in.
        """
        self._check_here()
        await self.state.wait_ended()

    async def aclose(self) -> CloseReport:
        """
        Drain and close (T14). Later calls return the same report.

        Raises:
            RuntimeError: In another process, or on another loop, than it was opened in.
        """
        self._check_here()
        with self._not_waiting_for_caller() as caller:
            if caller is not None:
                self._closers.add(caller)
            if self._closing is None or self._closing.cancelled():
                self.is_closing = True
                self.state.end()
                self.holders.close()
                self._closing = self._loop.create_task(self._close(), context=contextvars.Context())
            return await asyncio.shield(self._closing)

    async def _close(self) -> CloseReport:
        deadline = self._loop.time() + self.limits.drain_timeout
        try:
            refused, cancelled = await self._drain(deadline)
        finally:  # if the program cancels this too, the link is released all the same
            await self._close_link(deadline)
        abandoned = tuple(sorted(str(each) for each in self.dispatcher.running() if each not in self._closers))
        if abandoned:
            self._logger.warning("closed, but these handlers ignore cancellation: %s", "; ".join(abandoned))
        return CloseReport(abandoned=abandoned, cancelled=cancelled, refused=refused)

    async def _drain(self, deadline: float) -> tuple[int, int]:
        """Let what has started end, and the rest too if there is time; return how many were refused and cancelled."""

        def concerns(each: Delivery) -> bool:
            return each not in self._closers

        drop_timeout = max(DROP_TIMEOUT, self.limits.drain_timeout)
        await bounded(self.holders.drop_all(), drop_timeout, "dropping the shards", self._logger)
        if await self.dispatcher.settle(concerns, deadline):
            return 0, 0
        refused = self.dispatcher.refuse_waiting(concerns, lambda each: DrainingError(each.envelope.shard))
        cancelled = self.dispatcher.cancel_running(concerns)
        await self.dispatcher.settle(concerns, self._loop.time() + CANCEL_GRACE)
        return refused, cancelled

    async def _close_link(self, deadline: float) -> None:
        await self.answer_budget.settle(deadline)
        self._is_closed = True
        self.lag.stop()
        self.answers.unsent.close()
        self.answers.held.close()
        self.state.close()
        self.pending.fail_sent(TransportClosedError, "the transport was closed during the request")
        # Answers that a slow network has not taken yet get what is left of the time to drain.
        flush_timeout = max(FLUSH_TIMEOUT, deadline - self._loop.time())
        await bounded(self.link.flush(), flush_timeout, "flushing the link", self._logger)
        await bounded(self.link.aclose(), LINK_CLOSE_TIMEOUT, "closing the link", self._logger)
        self.deadlines.retire()  # a handler that closed its transport still has its deadline

    @contextmanager
    def _not_waiting_for_caller(self) -> Iterator[Delivery | None]:
        """Let no draining wait for the handler that this is called from: it would wait for itself."""
        caller = self._own_delivery()
        if caller is None:
            yield None
            return
        self.dispatcher.begin_close(caller)
        try:
            yield caller
        finally:
            self.dispatcher.end_close(caller)

    def _own_delivery(self) -> Delivery | None:
        inside = current()
        return inside if isinstance(inside, Delivery) and inside.dispatcher is self.dispatcher else None

    def check_usable(self) -> None:
        """
        Raise if nothing may be sent or held any more, or not from here.

        Raises:
            TransportClosedError: The engine is closed, or closing.
            RuntimeError: In another process, or on another loop, than it was opened in.
        """
        self._check_here()
        if self.is_closing and (self._is_closed or not self._is_draining_here()):
            raise TransportClosedError

    def _is_draining_here(self) -> bool:
        """Tell whether this is called for a message of this transport: requests of draining handlers go on (T14)."""
        inside = current()
        return inside is not None and inside.belongs_to(self.dispatcher)

    def _check_here(self) -> None:
        if _forks.count != self._forks:
            raise RuntimeError("this transport was opened before the process forked: connect again in the child")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this transport belongs to another event loop: connect again in this one")
