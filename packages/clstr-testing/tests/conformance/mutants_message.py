"""Transports that break T1: what arrives, and what comes back."""

from __future__ import annotations

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


@breaks("T1.1", "T1.3")
class MangledAsText(Answers):
    """Replies pass through a text."""

    def _reply(self, delivery: Delivery, data: bytes) -> None:
        super()._reply(delivery, data.decode(errors="ignore").encode())


@breaks("T1.1")
class EmptyReplyIsABuffer(Engine):
    """An empty reply is a bytearray."""

    async def request(self, envelope: clstr.Envelope, *, timeout: float = 5.0) -> Any:
        return await super().request(envelope, timeout=timeout) or bytearray()


@breaks("T1.1")
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


@breaks("T1.3")
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
