"""Requests and notifies on their way out."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING

import msgspec

from clstr._chain import extend
from clstr._context import Current, current
from clstr._envelope import Envelope
from clstr._wire import PROTOCOL_VERSION, Codec
from clstr.errors import (
    ClstrError,
    DrainingError,
    EnvelopeExpiredError,
    NotOwnerError,
    PayloadTooLargeError,
    RequestTimeoutError,
    TransportUnavailableError,
)
from clstr.spi._pending import AskAgain, Outcome, Pending

if TYPE_CHECKING:
    from clstr.spi._engine import Engine

# Seconds before each further attempt at a message that reached somebody who does not own its shard: the link's map of
# owners changes within a tick or within a round trip.
PAUSES = (0.0, 0.01, 0.05)


class _Call(msgspec.Struct, kw_only=True):
    """
    One request or notify, over all its attempts.

    Attributes:
        has_asked: Whether it was sent again because the link asked for that.
        expires: When a node may no longer run it: loop time, infinite without a TTL.
        deadline: When the caller stops waiting: loop time.
    """

    envelope: Envelope
    timeout: float
    deadline: float
    expires: float
    oneway: bool
    depth: int
    chain: list[str]
    has_asked: bool = False


class Sender:
    """Sends messages for one engine, each at most once unless it certainly did not run (T16)."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, codec: Codec) -> None:
        self._engine = engine
        self._loop = loop
        self._codec = codec

    def request(self, envelope: Envelope, timeout: float) -> Awaitable[bytes]:
        """Check ``envelope``; once awaited, send it and wait for the reply."""
        inside = current()
        call = self._new_call(envelope, timeout, inside, oneway=False)
        return self._exchange(call) if inside is None else self._exchange_inside(inside, call)

    async def _exchange_inside(self, inside: Current, call: _Call) -> bytes:
        """Lend the slot of the handler meanwhile (T6)."""
        inside.lend()
        try:
            return await self._exchange(call)
        finally:
            inside.reclaim()

    async def notify(self, envelope: Envelope, timeout: float) -> None:
        """Send and wait until the message is on its way (T12)."""
        # No depth and no chain: nobody waits for it, so it can neither deadlock nor close a cycle.
        await self._exchange(self._new_call(envelope, timeout, None, oneway=True))

    def _new_call(self, envelope: Envelope, timeout: float, inside: Current | None, *, oneway: bool) -> _Call:
        envelope.validate()
        size, maximum = len(envelope.data), self._engine.max_payload_bytes
        if size > maximum:
            raise PayloadTooLargeError(size, maximum)
        now = self._loop.time()
        ttl = envelope.ttl()
        return _Call(
            envelope=envelope,
            timeout=timeout,
            deadline=now + timeout,
            expires=math.inf if ttl is None else now + ttl,
            oneway=oneway,
            depth=0 if inside is None else inside.depth + 1,
            chain=[] if inside is None else extend(inside.chain, inside.name or inside.envelope.key),
        )

    async def _exchange(self, call: _Call) -> bytes:
        """Attempt until there is an outcome: again only after what proves that the last attempt did not run."""
        pauses = iter(PAUSES)
        while True:
            outcome = await self._attempt(call)
            if isinstance(outcome, bytes):
                return outcome
            error, pause = _read(outcome, call, pauses)
            if pause is None or self._loop.time() + pause >= call.deadline:
                try:
                    raise error
                finally:
                    del error, outcome  # they know this frame: the cycle would keep the payload until it is collected
            self._engine.stats.rerouted += 1
            await asyncio.sleep(pause)

    async def _attempt(self, call: _Call) -> Outcome:
        envelope, state = call.envelope, self._engine.state
        pending = self._engine.pending.open(envelope.shard, len(envelope.data), call.deadline, call.timeout)
        try:
            if not state.is_up and not await state.wait_up(call.deadline):
                raise RequestTimeoutError(envelope.shard, call.timeout, maybe_executed=False)
            try:
                self._send(call, pending)
            except TransportUnavailableError as error:
                await self._send_later(call, pending, error)
            outcome = await pending.outcome
            if isinstance(outcome, NotOwnerError | DrainingError):
                self._engine.link.misrouted(envelope.shard, pending.route)
            return outcome
        finally:
            self._engine.pending.close(pending)

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
                self._send(call, pending)
                return
            except TransportUnavailableError as again:
                error = again
        if call.deadline < give_up:
            raise RequestTimeoutError(call.envelope.shard, call.timeout, maybe_executed=False)
        try:
            raise error
        finally:
            del error  # it knows this frame: the cycle would keep the payload until it is collected

    def _send(self, call: _Call, pending: Pending) -> None:
        link, shard = self._engine.link, call.envelope.shard
        body = self._encode(call, link.reply_to(shard, pending.token))
        if link.max_message_bytes is not None and len(body) > link.max_message_bytes:
            size = len(call.envelope.data)  # with large headers, or on a broker that carries less since a reconnect
            raise PayloadTooLargeError(size, max(0, size - (len(body) - link.max_message_bytes)))
        pending.was_sent = True  # before the link has it: an answer may come from inside of `send`
        try:
            route = link.send(shard, pending.token, body, oneway=call.oneway)
        except BaseException:
            pending.was_not_sent()
            raise
        if pending.route is None:
            pending.route = route

    def _encode(self, call: _Call, reply_to: str) -> bytes:
        envelope = call.envelope
        frame = self._codec.new_request(
            envelope.shard,
            envelope.type,
            envelope.data,
            reply_to,
            envelope.headers,
            self._ttl_ms(call),
            envelope.created_at_ms or time.time_ns() // 1_000_000,
            PROTOCOL_VERSION,
            call.oneway,
            call.depth,
            call.chain,
        )
        return self._codec.encode(frame)

    def _ttl_ms(self, call: _Call) -> int:
        """Return what is left of the TTL at this send; for a request the caller's own deadline counts too (T8)."""
        now = self._loop.time()
        if call.expires <= now:
            ttl = call.envelope.ttl_ms / 1000
            raise EnvelopeExpiredError(call.envelope.shard, ttl)
        if call.deadline <= now:
            raise RequestTimeoutError(call.envelope.shard, call.timeout, maybe_executed=False)
        until = call.expires if call.oneway else min(call.expires, call.deadline)
        # At least 1: 0 would be no TTL at all.
        return 0 if until == math.inf else max(1, int((until - now) * 1000))


def _read(outcome: ClstrError | AskAgain, call: _Call, pauses: Iterator[float]) -> tuple[ClstrError, float | None]:
    """Return the error, and the seconds after which the message may be sent again, or ``None`` if it may not be."""
    if isinstance(outcome, AskAgain):
        may_ask, call.has_asked = not call.has_asked, True
        return outcome.error, outcome.delay if may_ask else None
    if isinstance(outcome, NotOwnerError) and not outcome.maybe_executed:
        return outcome, next(pauses, None)
    return outcome, None
