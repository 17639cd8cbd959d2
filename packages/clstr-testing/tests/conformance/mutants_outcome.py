"""Transports that break T9 to T12: how calls end."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, cast

import clstr
from clstr._wire import decode_reply
from clstr.errors import ClstrError, HandlerError, HandlerTimeoutError, NotOwnerError, PayloadTooLargeError
from clstr.spi import Buffer, Route
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._payload_limit import PayloadLimit
from clstr.spi._pending import AskAgain, Outcome, Pending, PendingReplies, random_tokens
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender, _Call
from conformance.broken import breaks
from conformance.loopback import Hub, LoopbackLink


@breaks("T8.1", "T9.1")
class TimeoutIgnored(Sender):
    """A caller waits as long as it takes."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        return await super().exchange(envelope, timeout if oneway else 1e6, oneway=oneway)


@breaks("T9.1")
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


@breaks("T10.1")
class RefusalsAreHandlerErrors(Answers):
    """A handler's refusal arrives as any other error."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        self._fail(delivery, HandlerError(type(error).__name__, str(error) or "cancelled"))


@breaks("T6.2", "T6.3", "T7.3", "T10.1")
class RefusalsLoseTheirFacts(Receiver):
    """An error arrives with its type and its message alone."""

    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        outcome = super()._read_reply(pending, body)
        if isinstance(outcome, ClstrError) and not outcome.maybe_executed:
            outcome.__dict__.update({name: type_() for name, type_ in outcome.facts.items() if type_ is str})
        return outcome


@breaks("T10.1")
class RefusalsMayHaveRun(Receiver):
    """No refusal of a handler is believed."""

    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        outcome = super()._read_reply(pending, body)
        if isinstance(outcome, clstr.UnknownMessageError):
            outcome.maybe_executed = True
        return outcome


@breaks("T10.2", "T15.2")
class ErrorTypeLost(Answers):
    """Of a handler's error only the message arrives."""

    def _fail(self, delivery: Delivery, error: ClstrError) -> None:
        if isinstance(error, HandlerError):
            error = HandlerError("", error.error_message)
        super()._fail(delivery, error)


@breaks("T10.2")
class ErrorsPassAsTheyAre(Answers):
    """Whatever error of clstr's leaves a handler is taken for a refusal of its message."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        if isinstance(error, ClstrError) and not isinstance(error, HandlerError):
            self.refuse(delivery, error)
        else:
            super().handler_raised(delivery, error)


@breaks("T10.2")
class OnwardErrorsPassAsTheyAre(Answers):
    """That an onward shard is unowned is taken for a refusal of this message."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        if isinstance(error, clstr.NoShardSubscriberError):
            self.refuse(delivery, error)
        else:
            super().handler_raised(delivery, error)


class _ReadsLongErrors(Receiver):
    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        frame = decode_reply(body)
        return (
            HandlerError.restore(frame.err, frame.details)
            if frame.code == HandlerError.code
            else super()._read_reply(pending, body)
        )


@breaks("T10.2", with_=(_ReadsLongErrors,))
class MessagesAreNotCut(Answers):
    """A handler's error has a message of any length."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        if isinstance(error, ValueError) and not isinstance(error, ClstrError):
            details = {"error_type": type(error).__name__, "error_message": str(error)}
            delivery.answered = True
            self._send(
                delivery.to,
                delivery.codec.encode(delivery.codec.new_reply(err="no", code="handler_error", details=details)),
            )
        else:
            super().handler_raised(delivery, error)


@breaks("T10.2")
class MessagesAreCutToPieces(Answers):
    """Of a handler's message only a hundred bytes arrive."""

    def _fail(self, delivery: Delivery, error: ClstrError) -> None:
        if isinstance(error, HandlerError):
            error = HandlerError(error.error_type, error.error_message[:100])
        super()._fail(delivery, error)


@breaks("T10.2")
class WrongRepliesAreText(Answers):
    """A handler that returns a text answers with it."""

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        super().handler_returned(delivery, result.encode() if isinstance(result, str) else result)


@breaks("T11.1")
class OversizeHangs(Sender):
    """A payload too large is never sent, and never refused."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        if not oneway and len(envelope.data) > self._engine.max_payload_bytes:
            await asyncio.sleep(timeout)
        return await super().exchange(envelope, timeout, oneway=oneway)


class _Boundless(PayloadLimit):
    def current(self) -> int:
        return 10**9


@breaks("T11.1")
class OversizeIsSent(Sender):
    """A payload too large is left to the receiver."""

    def _new_call(self, *args: Any, **kwargs: Any) -> _Call:
        limit, boundless = self._payload_limit, _Boundless(self._engine.link, self._engine.limits, self._codec)
        self._payload_limit = boundless
        try:
            return super()._new_call(*args, **kwargs)
        finally:
            self._payload_limit = limit


@breaks("T11.1")
class OversizeMayHaveRun(Sender):
    """A payload too large was not sent, but its error does not say so."""

    def _new_call(self, *args: Any, **kwargs: Any) -> _Call:
        try:
            return super()._new_call(*args, **kwargs)
        except PayloadTooLargeError as error:
            error.maybe_executed = True
            raise


@breaks("T11.2")
class OversizeReplyDropped(Answers):
    """A reply too large vanishes."""

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        if isinstance(result, bytes) and len(result) > self._payload_limit.current():
            delivery.answered = True
        super().handler_returned(delivery, result)


@breaks("T11.2")
class OversizeReplyIsARefusal(Answers):
    """A reply too large is said never to have been made."""

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        if isinstance(result, bytes) and len(result) > self._payload_limit.current():
            self.refuse(delivery, PayloadTooLargeError(len(result), self._payload_limit.current()))
        super().handler_returned(delivery, result)


@breaks("T11.2")
class OversizeReplyIsSent(Answers):
    """Nobody looks at the size of a reply."""

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        if isinstance(result, bytes):
            self._reply(delivery, result)
            delivery.answered = True
        else:
            super().handler_returned(delivery, result)


@breaks("T8.1", "T12.1", "T12.2")
class NotifyWaits(Sender):
    """A notify is a request whose reply nobody reads."""

    def _new_call(self, *args: Any, oneway: bool) -> _Call:
        call = super()._new_call(*args, oneway=oneway)
        call.oneway = False
        return call


@breaks("T8.1", "T12.2")
class NotifyReports(NotifyWaits):
    """A notify waits a little, in case there is an error to report."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        try:
            async with asyncio.timeout(0.2 if oneway else None):
                return await super().exchange(envelope, timeout, oneway=oneway)
        except TimeoutError as error:
            if isinstance(error, ClstrError):
                raise
            return b""


@breaks("T12.1")
class NotifyRunsTwice(LoopbackLink):
    """A notify is sent twice, to make sure."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway:
            self.check_up()
            self.deliver(self.hub.pick(shard), shard, token, body)
        return super().send(shard, token, body, oneway=oneway)


@breaks("T12.1")
class NotifyIsLost(LoopbackLink):
    """Every third notify vanishes."""

    sent = 0

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and self.is_up and self.hub.holders.get(shard):
            self.sent += 1
            if self.sent % 3 == 0:
                self.sink.accepted(token)
                return None
        return super().send(shard, token, body, oneway=oneway)


@breaks("T12.1")
class NoNotifyToOneself(LoopbackLink):
    """A peer does not hear its own notifies."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and self.is_up and self.hub.holders.get(shard) == [self]:
            self.sink.accepted(token)
            return None
        return super().send(shard, token, body, oneway=oneway)


@breaks("T12.3")
class NotifyGoesWhereTheLastMessageWent(LoopbackLink):
    """A sender remembers who held a shard, and a notify that is refused there tells nobody."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.known: dict[int, LoopbackLink] = {}

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and self.is_up and shard in self.known:
            self.deliver(self.known[shard], shard, token, body)
            self.sink.accepted(token)
            return self.known[shard]
        peer = super().send(shard, token, body, oneway=oneway)
        self.known[shard] = cast("LoopbackLink", peer)
        return peer


@breaks("T10.1", "T10.2", "T15.2", "T16.1")
class RefusedAfterRunning(Answers):
    """A handler's error is taken to prove that the shard is elsewhere, so the message is sent again."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        self.refuse(delivery, NotOwnerError(delivery.envelope.shard))


def once_more(outcome: ClstrError | AskAgain, kind: type[ClstrError]) -> ClstrError | AskAgain:
    """Take an error of this kind for the link's wish that the message be sent again."""
    return AskAgain(outcome, 0.0) if isinstance(outcome, kind) else outcome


@breaks("T16.1")
class RunsAgainAfterAnError(Sender):
    """A request whose handler failed is sent once more."""

    def _read(self, outcome: ClstrError | AskAgain, call: _Call, pending: Pending) -> tuple[ClstrError, float | None]:
        return super()._read(once_more(outcome, HandlerError), call, pending)


@breaks("T7.1", "T7.2", "T7.3", "T14.6", "T16.1")
class RunsAgainAfterATimeout(Sender):
    """A request whose handler took too long is sent once more."""

    def _read(self, outcome: ClstrError | AskAgain, call: _Call, pending: Pending) -> tuple[ClstrError, float | None]:
        return super()._read(once_more(outcome, HandlerTimeoutError), call, pending)
