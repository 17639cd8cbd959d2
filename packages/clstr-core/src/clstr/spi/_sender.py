"""Requests and notifies on their way out."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

import msgspec

from clstr._backoff import Backoff
from clstr._context import Current, current
from clstr._limits import check_seconds
from clstr._messages.call_chain import CallIds, extend, new_call
from clstr._messages.envelope import Envelope
from clstr._messages.wire import PROTOCOL_VERSION, Codec
from clstr.errors import (
    ClstrError,
    ConnectionLostError,
    DrainingError,
    EnvelopeExpiredError,
    InvalidReplyError,
    NotOwnerError,
    OverloadedError,
    RequestTimeoutError,
    TransportClosedError,
    TransportUnavailableError,
)
from clstr.spi._answer_window import Held
from clstr.spi._held_answers import ANSWER_TYPE
from clstr.spi._payload_limit import PayloadLimit
from clstr.spi._pending import AskAgain, Pending

if TYPE_CHECKING:
    from clstr.spi._engine import Engine

# Seconds before each further attempt at a message that reached somebody who does not own its shard: the link's map of
# owners changes within a tick or within a round trip.
PAUSES = (0.0, 0.01, 0.05)
# Seconds before a held answer is asked for again because the link has too much to send: megabytes take that long.
FIRST_ROOM_PAUSE, LONGEST_ROOM_PAUSE = 0.02, 0.5


class _Call(msgspec.Struct):
    """
    One request or notify, over all its attempts.

    Attributes:
        deadline: When the caller stops waiting: loop time.
        expires: When a node may no longer run it: loop time, infinite without a TTL.
        refusals: How many times it reached somebody who does not own its shard.
        has_asked: Whether it was sent again because the link asked for that.
        own: What stands for it on its chain, if a handler with a name or a key sends it.
    """

    envelope: Envelope
    timeout: float
    deadline: float
    expires: float
    oneway: bool
    depth: int
    chain: list[str]
    own: str | None = None
    refusals: int = 0
    has_asked: bool = False


class Sender:
    """Sends messages for one engine, each at most once unless it certainly did not run (T16)."""

    def __init__(
        self, engine: Engine, loop: asyncio.AbstractEventLoop, codec: Codec, payload_limit: PayloadLimit
    ) -> None:
        self._engine = engine
        self._pending = engine.pending
        self._clock = loop.time
        self._codec = codec
        self._ids = CallIds()  # its own: a forked process must not draw the same ones
        self._payload_limit = payload_limit
        self._window = engine.pending.window

    async def exchange(self, envelope: Envelope, timeout: float, *, oneway: bool) -> bytes:
        """
        Send ``envelope`` and wait for the reply, or, if it is ``oneway``, until it is on its way (T12).

        Attempt until there is an outcome: again only after what proves that the last attempt did not run.
        """
        self._engine.check_usable()
        # A notify has no depth and no chain: nobody waits for it, so it can neither deadlock nor close a cycle.
        inside = None if oneway else current()
        now = self._clock()
        call = self._new_call(envelope, check_seconds("timeout", timeout), now, inside, oneway=oneway)
        if inside is not None:
            _leave(inside, call)
        try:
            while True:
                asked = None if oneway else envelope.type
                pending = self._pending.open(envelope.shard, len(envelope.data), call.deadline, timeout, asked)
                try:
                    if not self._engine.state.is_up:
                        now = await self._wait_up(call)
                    try:
                        self._send(call, pending, now)
                    except TransportUnavailableError as no_way:
                        await self._send_later(call, pending, no_way)
                    outcome = await pending.outcome
                    if isinstance(outcome, Held):
                        outcome = await self._fetch(outcome, call, pending)
                finally:
                    self._pending.close(pending)
                if isinstance(outcome, bytes):
                    return outcome
                error, pause = self._read(outcome, call, pending)
                if pause is None or self._clock() + pause >= call.deadline:
                    try:
                        raise error
                    finally:
                        # They know this frame: the cycle would keep the payload until it is collected.
                        del error, outcome, pending
                self._engine.counters.rerouted += 1
                await asyncio.sleep(pause)
                now = self._clock()
        finally:
            if inside is not None:
                _come_back(inside, call)

    def _new_call(
        self, envelope: Envelope, timeout: float, now: float, inside: Current | None, *, oneway: bool
    ) -> _Call:
        envelope.validate()
        size = len(envelope.data)
        if size > self._payload_limit.current():
            raise self._payload_limit.exceeded(size)
        ttl = envelope.ttl() if envelope.ttl_ms else None
        expires = math.inf if ttl is None else now + ttl
        if inside is None:
            return _Call(envelope, timeout, now + timeout, expires, oneway, 0, [])
        name = inside.name or inside.envelope.key
        own = new_call(name, self._ids) if name else None
        chain = extend(inside.chain, own) if own else list(inside.chain)
        return _Call(envelope, timeout, now + timeout, expires, oneway, inside.depth + 1, chain, own)

    async def _wait_up(self, call: _Call) -> float:
        """Wait for a lost link, and return when it came back."""
        if not await self._engine.state.wait_up(call.deadline):
            raise RequestTimeoutError(call.envelope.shard, call.timeout, maybe_executed=False)
        return self._clock()

    async def _send_later(self, call: _Call, pending: Pending, error: TransportUnavailableError) -> None:
        """
        Send what the link had no way for, once it has one: the wait is that for a lost link.

        The link is down and has not told us yet, or it is up, but does not reach whoever may own this shard.
        """
        state = self._engine.state
        give_up = state.give_up()
        while await state.wait_news(min(call.deadline, give_up)):
            if not state.is_up and not await state.wait_up(call.deadline, give_up):
                break
            try:
                self._send(call, pending, self._clock())
                return
            except TransportUnavailableError as again:
                error = again
        if call.deadline < give_up:
            raise RequestTimeoutError(call.envelope.shard, call.timeout, maybe_executed=False)
        try:
            raise error
        finally:
            del error  # it knows this frame: the cycle would keep the payload until it is collected

    def _send(self, call: _Call, pending: Pending, now: float) -> None:
        envelope, link = call.envelope, self._engine.link
        shard = envelope.shard
        if call.oneway:
            # A Go node confirms nothing; what the broker says has to do beside one.
            pending.needs_confirmation = link.needs_confirmation and not self._engine.has_go_peers
        frame = self._codec.new_request(
            shard,
            envelope.type,
            envelope.data,
            link.reply_to(shard, pending.token),
            envelope.headers,
            self._ttl_ms(call, now),
            envelope.created_at_ms or time.time_ns() // 1_000_000,
            PROTOCOL_VERSION,
            call.oneway,
            call.depth,
            call.chain,
            pending.room,
            self._engine.cluster,
            pending.needs_confirmation,
        )
        body = self._codec.encode(frame)
        if link.max_message_bytes is not None and len(body) > link.max_message_bytes:
            raise self._payload_limit.exceeded_by_frame(len(envelope.data), len(body), self._codec)
        if not self._engine.lag.is_armed:
            self._engine.lag.arm()
        pending.was_sent = True  # before the link has it: an answer may come from inside of `send`
        try:
            route = link.send(shard, pending.token, body, oneway=call.oneway)
        except BaseException:
            pending.was_not_sent()
            raise
        self._engine.counters.sent += 1
        if route is not None and pending.route is None:  # as `PendingReplies.went`, without a call for each request
            pending.route = route
            self._pending.by_route[route][pending] = None

    async def _fetch(self, held: Held, call: _Call, pending: Pending) -> bytes | ClstrError:
        """Ask for an answer that its node holds, when there is room for it: the handler has run, whatever happens."""
        self._window.learn(call.envelope.type, held.size)
        self._window.release(pending.room)
        pending.room = 0
        envelope = Envelope(shard=held.at, type=ANSWER_TYPE, data=held.ticket.encode())
        fetch = _Call(envelope, call.timeout, call.deadline, math.inf, False, call.depth, [])
        try:
            async with self._window.turn(held.size, call.deadline):
                return await self._fetch_now(fetch, pending)
        except (TimeoutError, RequestTimeoutError):
            return RequestTimeoutError(call.envelope.shard, call.timeout)
        except TransportClosedError as closed:
            closed.maybe_executed = True
            return closed
        except ClstrError as error:
            text = f"the handler has run, but its answer cannot be fetched from the node that holds it: {error}"
            return ConnectionLostError(text, maybe_executed=True)

    async def _fetch_now(self, fetch: _Call, pending: Pending) -> bytes:
        while True:
            self._pending.renew(pending, fetch.deadline)
            if not self._engine.state.is_up:
                await self._wait_up(fetch)
            await self._send_when_there_is_room(fetch, pending)
            outcome = await pending.outcome
            if isinstance(outcome, bytes):
                return outcome
            if isinstance(outcome, Held):
                raise InvalidReplyError("a node answers a request for a held answer with another one")
            error, pause = self._read(outcome, fetch, pending)
            if pause is None or self._clock() + pause >= fetch.deadline:
                raise error
            await asyncio.sleep(pause)

    async def _send_when_there_is_room(self, fetch: _Call, pending: Pending) -> None:
        """Send again while the link has too much to send: nothing has left, and the node keeps the answer."""
        pauses = Backoff(first=FIRST_ROOM_PAUSE, longest=LONGEST_ROOM_PAUSE)
        while True:
            try:
                await self._send_or_wait(fetch, pending)
                return
            except OverloadedError:
                await asyncio.sleep(min(pauses.next(), max(0.0, fetch.deadline - self._clock())))

    async def _send_or_wait(self, call: _Call, pending: Pending) -> None:
        try:
            self._send(call, pending, self._clock())
        except TransportUnavailableError as no_way:
            await self._send_later(call, pending, no_way)

    def _read(self, outcome: ClstrError | AskAgain, call: _Call, pending: Pending) -> tuple[ClstrError, float | None]:
        """Return the error, and the seconds after which the message may be sent again, or ``None`` if it may not be."""
        if isinstance(outcome, AskAgain):
            may_ask, call.has_asked = not call.has_asked, True
            return outcome.error, outcome.delay if may_ask else None
        if isinstance(outcome, RequestTimeoutError) and outcome.maybe_executed and not outcome.reason:
            reason = self._engine.link.why_unanswered(outcome.shard)
            return RequestTimeoutError(outcome.shard, outcome.timeout, reason), None
        if isinstance(outcome, NotOwnerError | DrainingError):
            self._engine.link.misrouted(call.envelope.shard, pending.route)
        if isinstance(outcome, NotOwnerError) and not outcome.maybe_executed and call.refusals < len(PAUSES):
            call.refusals += 1
            return outcome, PAUSES[call.refusals - 1]
        return outcome, None

    def _ttl_ms(self, call: _Call, now: float) -> int:
        """Return what is left of the TTL at this send; for a request the caller's own deadline counts too (T8)."""
        if call.expires <= now:
            raise EnvelopeExpiredError(call.envelope.shard, call.envelope.ttl_ms / 1000)
        if call.deadline <= now:
            raise RequestTimeoutError(call.envelope.shard, call.timeout, maybe_executed=False)
        until = call.expires if call.oneway else min(call.expires, call.deadline)
        # At least 1: 0 would be no TTL at all.
        return 0 if until == math.inf else max(1, int((until - now) * 1000))


def _leave(inside: Current, call: _Call) -> None:
    """Lend the slot of the handler that awaits ``call`` to others, meanwhile (T6)."""
    inside.lend()
    if call.own is not None:
        inside.begin_call(call.own, call.envelope)


def _come_back(inside: Current, call: _Call) -> None:
    """Undo `_leave`."""
    if call.own is not None:
        inside.end_call(call.own)
    inside.reclaim()
