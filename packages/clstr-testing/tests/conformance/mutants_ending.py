"""Transports that break T9: how and when calls end."""

from __future__ import annotations

import itertools

import clstr
from clstr.errors import (
    HandlerTimeoutError,
)
from clstr.spi._pending import Pending, PendingReplies, random_tokens
from clstr.spi._sender import Sender
from conformance.broken import breaks


@breaks("T1.4", "T1.5", "T8.1", "T9.1")
class TimeoutIgnored(Sender):
    """A caller waits as long as it takes."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        return await super().exchange(envelope, timeout if oneway else 1e6, oneway=oneway)


@breaks("T1.4", "T1.5", "T9.1")
class TimeoutIsAnEmptyReply(Sender):
    """A caller whose time is over gets nothing, and no error."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        try:
            return await super().exchange(envelope, timeout, oneway=oneway)
        except (HandlerTimeoutError, clstr.RequestTimeoutError):
            if timeout > 1 or oneway:
                raise
            return b""


@breaks("T9.2")
class CancelledRequestsLeak(PendingReplies):
    """What was cancelled keeps its place and its bytes."""

    def close(self, pending: Pending) -> None:
        if not pending.outcome.cancelled():
            super().close(pending)


@breaks("T9.2")
class CancelledBytesLeak(PendingReplies):
    """What was cancelled keeps its bytes."""

    def close(self, pending: Pending) -> None:
        super().close(pending)
        if pending.outcome.cancelled():
            self._bytes += pending.size


@breaks("T9.2", "T9.3")
class TokensAreUsedAgain(PendingReplies):
    """The reply to a cancelled request reaches the next that has its number."""

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        free = next(token for token in range(10_000) if token not in self._by_token)
        self._tokens = itertools.chain([free], random_tokens())  # those for answers that are fetched
        return super().open(shard, size, deadline, timeout, message_type)
