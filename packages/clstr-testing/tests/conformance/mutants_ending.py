"""Transports that break T9: how and when calls end."""

from __future__ import annotations

import asyncio
import itertools

import clstr
from clstr.errors import (
    HandlerTimeoutError,
)
from clstr.spi import Buffer, Route
from clstr.spi._pending import Pending, PendingReplies, random_tokens
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender
from conformance.broken import breaks


@breaks("T1.4", "T1.5", "T3.1", "T3.2", "T6.4", "T8.1", "T8.3", "T9.1", "T9.2")
class TimeoutIgnored(Sender):
    """A caller waits as long as it takes."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        return await super().exchange(envelope, timeout if oneway else 1e6, oneway=oneway)


@breaks("T1.4", "T1.5", "T3.1", "T3.2", "T8.3", "T9.1")
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


@breaks("T9.1", "T9.2", "T9.3")
class TokensAreUsedAgain(PendingReplies):
    """The reply to a cancelled request reaches the next that has its number."""

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        free = next(token for token in range(10_000) if token not in self._by_token)
        self._tokens = itertools.chain([free], random_tokens())  # those for answers that are fetched
        return super().open(shard, size, deadline, timeout, message_type)


@breaks("T1.4", "T1.5", "T9.1")
class TimeoutsAreLeftToTheNode(PendingReplies):
    """A caller waits until the node says that its time is over, and twice as long for one that is silent."""

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        return super().open(shard, size, deadline + timeout, timeout, message_type)


@breaks("T9.1")
class TimeoutsAreHalved(PendingReplies):
    """A caller waits for half of its time."""

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        return super().open(shard, size, deadline - timeout / 2, timeout, message_type)


@breaks("T1.4", "T1.5", "T9.2")
class TimedOutRequestsKeepTheirPlace(PendingReplies):
    """The place of a request that timed out is not free again."""

    def close(self, pending: Pending) -> None:
        outcome = None if pending.outcome.cancelled() or not pending.outcome.done() else pending.outcome.result()
        if not isinstance(outcome, clstr.RequestTimeoutError | clstr.HandlerTimeoutError):
            super().close(pending)


@breaks("T1.4", "T9.2")
class FailedRequestsKeepTheirBytes(PendingReplies):
    """The bytes of a request that failed stay counted."""

    def close(self, pending: Pending) -> None:
        super().close(pending)
        if pending.outcome.done() and not pending.outcome.cancelled():
            self._bytes += pending.size * isinstance(pending.outcome.result(), clstr.HandlerError)


class _Remembers(Sender):
    """Keeps what it sends, or some of it."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        kept = self.__dict__.setdefault("kept", [])
        try:
            result = await super().exchange(envelope, timeout, oneway=oneway)
        except BaseException as error:
            if self.remembers(error, oneway=oneway):
                kept.append(envelope)
            raise
        if self.remembers(None, oneway=oneway):
            kept.append(envelope)
        return result

    def remembers(self, error: BaseException | None, *, oneway: bool) -> bool:
        raise NotImplementedError


@breaks("T9.2")
class RemembersTheCancelled(_Remembers):
    """A client keeps each message that was given up."""

    def remembers(self, error: BaseException | None, *, oneway: bool) -> bool:
        return isinstance(error, asyncio.CancelledError)


@breaks("T9.2")
class RemembersTheTimedOut(_Remembers):
    """A client keeps each message that had no answer in time."""

    def remembers(self, error: BaseException | None, *, oneway: bool) -> bool:
        return isinstance(error, clstr.RequestTimeoutError | clstr.HandlerTimeoutError)


@breaks("T9.2")
class RemembersTheFailed(_Remembers):
    """A client keeps each message that failed."""

    def remembers(self, error: BaseException | None, *, oneway: bool) -> bool:
        return isinstance(error, clstr.HandlerError)


@breaks("T9.2")
class RemembersNotifies(_Remembers):
    """A client keeps each notify."""

    def remembers(self, error: BaseException | None, *, oneway: bool) -> bool:
        return oneway and error is None


@breaks("T9.2", "T9.3")
class LateAnswersEndTheOldestRequest(Receiver):
    """An answer to nothing is taken for that of the request that waits longest."""

    def answer(self, token: int, body: Buffer, route: Route = None) -> None:
        waiting = self._engine.pending._by_token
        if token not in waiting and len(waiting) > 15:
            token = next(iter(waiting))
        super().answer(token, body)
