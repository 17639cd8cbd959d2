"""Transports that break T1: what arrives, and what comes back."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import msgspec

import clstr
from clstr.errors import PayloadTooLargeError
from clstr.spi import Engine
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._pending import Pending, PendingReplies
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender
from conformance.broken import breaks


@breaks("T1.1", "T1.3", "T1.4", "T1.5")
class MangledAsText(Answers):
    """Replies pass through a text."""

    def _reply(self, delivery: Delivery, data: bytes) -> None:
        super()._reply(delivery, data.decode(errors="ignore").encode())


@breaks("T1.1", "T5.2", "T6.2")
class EmptyReplyIsABuffer(Engine):
    """An empty reply is a bytearray."""

    async def request(self, envelope: clstr.Envelope, *, timeout: float = 5.0) -> Any:
        return await super().request(envelope, timeout=timeout) or bytearray()


@breaks("T1.1", "T5.4")
class HeadersLost(Receiver):
    """The handler gets no headers."""

    def _check(self, *args: Any) -> clstr.Envelope:
        return msgspec.structs.replace(super()._check(*args), headers={})


@breaks("T1.2")
class NoneBecomesNull(Answers):
    """A handler that returns nothing answers with JSON's null."""

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        super().handler_returned(delivery, b"null" if result is None else result)


@breaks("T1.3")
class HeadersCountAsPayload(Sender):
    """The bound of the payload is one of the message."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        size = len(envelope.data) + sum(map(len, envelope.headers.values()))
        if not oneway and size > self._engine.max_payload_bytes:
            raise PayloadTooLargeError(size, self._engine.max_payload_bytes)
        return await super().exchange(envelope, timeout, oneway=oneway)


@breaks("T1.1", "T1.3", "T11.1", "T11.2")
class LargestIsTooLarge(Engine):
    """A payload may have fewer bytes than the limit says."""

    async def open(self) -> Self:
        await super().open()
        self._payload_limit._bytes += 1
        return self


@breaks("T1.4")
class InflightBytesUnbounded(PendingReplies):
    """Any number of bytes waits for replies."""

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        return super().open(shard, 0, deadline, timeout, message_type)


@breaks("T1.4", "T9.2")
class InflightBytesNeverFreed(PendingReplies):
    """Bytes that were answered count for ever."""

    def close(self, pending: Pending) -> None:
        super().close(pending)
        self._bytes += pending.size


class _InflightBytesLeak(PendingReplies):
    """The bytes of requests that end in some way count for ever."""

    def close(self, pending: Pending) -> None:
        super().close(pending)
        outcome = pending.outcome
        is_cancelled = not outcome.done() or outcome.cancelled()
        if self.leaks(None if is_cancelled else outcome.result(), pending):
            self._bytes += pending.size

    def leaks(self, outcome: object, pending: Pending) -> bool:
        """Tell whether the bytes of a request stay that ended with ``outcome``: ``None`` if nothing came of it."""
        raise NotImplementedError


@breaks("T1.4", "T9.2")
class InflightBytesLeakOnTimeout(_InflightBytesLeak):
    """The bytes of requests that nobody answered in time count for ever."""

    def leaks(self, outcome: object, pending: Pending) -> bool:
        return isinstance(outcome, clstr.RequestTimeoutError)


@breaks("T1.4", "T9.2")
class InflightBytesLeakOnRefusal(_InflightBytesLeak):
    """The bytes of requests that were refused count for ever."""

    def leaks(self, outcome: object, pending: Pending) -> bool:
        return isinstance(outcome, clstr.ClstrError) and not outcome.maybe_executed


@breaks("T1.4", "T9.2")
class InflightBytesLeakOnHandlerError(_InflightBytesLeak):
    """The bytes of requests whose handler failed count for ever."""

    def leaks(self, outcome: object, pending: Pending) -> bool:
        return isinstance(outcome, clstr.HandlerError)


@breaks("T1.4", "T9.2")
class InflightBytesLeakOnHandlerTimeout(_InflightBytesLeak):
    """The bytes of requests whose handler was too slow count for ever."""

    def leaks(self, outcome: object, pending: Pending) -> bool:
        return isinstance(outcome, clstr.HandlerTimeoutError)


@breaks("T1.4")
class InflightBytesLeakOnLargeReply(_InflightBytesLeak):
    """The bytes of requests whose reply is too large count for ever."""

    def leaks(self, outcome: object, pending: Pending) -> bool:
        return isinstance(outcome, PayloadTooLargeError)


@breaks("T1.4", "T9.2")
class InflightBytesLeakOnNoRoute(_InflightBytesLeak):
    """The bytes of requests that could not be sent count for ever."""

    def leaks(self, outcome: object, pending: Pending) -> bool:
        return not pending.was_sent


@breaks("T1.4", "T9.2")
class InflightBytesLeakOnNotify(_InflightBytesLeak):
    """The bytes of notifies count for ever."""

    def leaks(self, outcome: object, pending: Pending) -> bool:
        return pending.message_type is None


@breaks("T1.4")
class InflightBytesLeakOnLoss(_InflightBytesLeak):
    """The bytes of requests that were in flight when the link was lost count for ever."""

    def leaks(self, outcome: object, pending: Pending) -> bool:
        return isinstance(outcome, clstr.ConnectionLostError)


@breaks("T1.5")
class InflightRequestsUnbounded(PendingReplies):
    """Any number of requests waits for replies."""

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        self._limits = replace(self._limits, max_inflight_requests=10**6)
        return super().open(shard, size, deadline, timeout, message_type)


@breaks("T1.5", "T9.2")
class InflightRequestsLeakOnTimeout(PendingReplies):
    """The place of a request that nobody answered in time is never free again."""

    def close(self, pending: Pending) -> None:
        super().close(pending)
        is_over = pending.outcome.done() and not pending.outcome.cancelled()
        if is_over and isinstance(pending.outcome.result(), clstr.RequestTimeoutError):
            self._limits = replace(self._limits, max_inflight_requests=self._limits.max_inflight_requests - 1)


@breaks("T1.4")
class OneRequestMayExceedTheBytes(PendingReplies):
    """A request is let through as long as there is any room, however large it is."""

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        room = self._limits.max_inflight_bytes - self._bytes
        pending = super().open(shard, min(size, max(1, room)), deadline, timeout, message_type)
        self._bytes += size - pending.size
        pending.size = size
        return pending


@breaks("T1.4")
class RefusedAfterItWasSent(Sender):
    """What exceeds the bytes in flight is refused, but it has been sent."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        try:
            return await super().exchange(envelope, timeout, oneway=oneway)
        except clstr.OverloadedError as error:
            if error.limit == "max_inflight_bytes":
                self._engine.link.send(envelope.shard, 0, self._frame(envelope), oneway=True)
            raise

    def _frame(self, envelope: clstr.Envelope) -> bytes:
        new = self._codec.new_request
        return self._codec.encode(new(envelope.shard, envelope.type, envelope.data, "", {}, 0, 1, 1, True, 0, [], 0))


@breaks("T1.1", "T1.3", "T11.1")
class LargestNotifyIsTooLarge(Sender):
    """A notify may have half of the data that a request may have."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        maximum = self._engine.max_payload_bytes // 2
        if oneway and len(envelope.data) > maximum:
            raise PayloadTooLargeError(len(envelope.data), maximum)
        return await super().exchange(envelope, timeout, oneway=oneway)


@breaks("T1.5")
class PlacesLeakOnLoss(PendingReplies):
    """The place of a request that was lost with its link is never free again."""

    def close(self, pending: Pending) -> None:
        super().close(pending)
        is_over = pending.outcome.done() and not pending.outcome.cancelled()
        if is_over and isinstance(pending.outcome.result(), clstr.ConnectionLostError):
            self._limits = replace(self._limits, max_inflight_requests=self._limits.max_inflight_requests - 1)


@breaks("T1.5", "T9.2")
class PlacesLeakOnError(PendingReplies):
    """The place of a request that was answered with an error is never free again."""

    def close(self, pending: Pending) -> None:
        super().close(pending)
        is_over = pending.outcome.done() and not pending.outcome.cancelled()
        if is_over and isinstance(pending.outcome.result(), clstr.HandlerError):
            self._limits = replace(self._limits, max_inflight_requests=self._limits.max_inflight_requests - 1)


@breaks("T1.5")
class PlacesPerShard(PendingReplies):
    """So many requests to each shard are in flight."""

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        same = sum(pending.shard == shard for pending in self._by_token.values())
        if same >= self._bound:
            raise clstr.OverloadedError("max_inflight_requests", self._bound)
        return super().open(shard, size, deadline, timeout, message_type)

    @cached_property
    def _bound(self) -> int:
        bound, self._limits = self._limits.max_inflight_requests, replace(self._limits, max_inflight_requests=10**6)
        return bound
