"""Transports that break T10 and T11: what errors say."""

from __future__ import annotations

import asyncio
from typing import Any

import clstr
from clstr._messages.wire import decode_reply
from clstr.errors import (
    ClstrError,
    HandlerError,
    PayloadTooLargeError,
)
from clstr.spi import Buffer
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._payload_limit import PayloadLimit
from clstr.spi._pending import Outcome, Pending
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender, _Call
from conformance.broken import breaks


@breaks("T10.1", "T10.2")
class RefusalsAreHandlerErrors(Answers):
    """A handler's refusal arrives as any other error."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        self._fail(delivery, HandlerError(type(error).__name__, str(error) or "cancelled"))


@breaks("T6.2", "T6.3", "T6.5", "T7.3", "T10.1")
class RefusalsLoseTheirFacts(Receiver):
    """An error arrives with its type and its message alone."""

    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        outcome = super()._read_reply(pending, body)
        if isinstance(outcome, ClstrError) and not outcome.maybe_executed:
            outcome.__dict__.update({name: type_() for name, type_ in outcome.facts.items() if type_ is str})
        return outcome


@breaks("T10.1", "T10.2")
class RefusalsMayHaveRun(Receiver):
    """No refusal of a handler is believed."""

    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        outcome = super()._read_reply(pending, body)
        if isinstance(outcome, clstr.UnknownMessageError):
            outcome.maybe_executed = True
        return outcome


@breaks("T10.1", "T10.2", "T15.2")
class ErrorTypeLost(Answers):
    """Of a handler's error only the message arrives."""

    def _fail(self, delivery: Delivery, error: ClstrError) -> None:
        if isinstance(error, HandlerError):
            error = HandlerError("", error.error_message)
        super()._fail(delivery, error)


@breaks("T10.1", "T10.2")
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


@breaks("T1.3", "T10.2", "T11.1")
class OversizeHangs(Sender):
    """A payload too large is never sent, and never refused."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        if not oneway and len(envelope.data) > self._engine.max_payload_bytes:
            await asyncio.sleep(timeout)
        return await super().exchange(envelope, timeout, oneway=oneway)


class _Boundless(PayloadLimit):
    def current(self) -> int:
        return 10**9


@breaks("T1.3", "T11.1")
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


@breaks("T6.1", "T11.2")
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


class _RewritesErrors(Answers):
    def rewrite(self, error: HandlerError) -> HandlerError:
        raise NotImplementedError

    def _fail(self, delivery: Delivery, error: ClstrError) -> None:
        super()._fail(delivery, self.rewrite(error) if isinstance(error, HandlerError) else error)


@breaks("T10.2")
class ErrorsHaveATraceback(_RewritesErrors):
    """A handler's error carries the lines of its traceback."""

    def rewrite(self, error: HandlerError) -> HandlerError:
        return HandlerError(error.error_type, f"{error.error_message}\nTraceback (most recent call last): ...")


@breaks("T10.2")
class ErrorsHaveOneLine(_RewritesErrors):
    """Only the first line of a handler's error arrives."""

    def rewrite(self, error: HandlerError) -> HandlerError:
        return HandlerError(error.error_type, error.error_message.partition("\n")[0])


@breaks("T10.2")
class ErrorsAreAscii(_RewritesErrors):
    """A handler's error loses what is no ASCII."""

    def rewrite(self, error: HandlerError) -> HandlerError:
        if len(error.error_message) > 400:
            return error
        return HandlerError(error.error_type, error.error_message.encode("ascii", "replace").decode())


@breaks("T10.2")
class CausesArePassedOn(Answers):
    """A handler's error arrives as its cause."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        super().handler_raised(delivery, error.__cause__ if isinstance(error.__cause__, KeyError) else error)


@breaks("T10.1", "T10.2")
class RefusalsAreKept(Answers):
    """An error that was a refusal once is one for ever."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        if isinstance(error, ClstrError) and error.__dict__.get("_refused") is not None:
            self.refuse(delivery, error)
        else:
            super().handler_raised(delivery, error)


@breaks("T10.1")
class FactsAreWholeNumbers(Receiver):
    """A fact that is a number loses its fraction."""

    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        outcome = super()._read_reply(pending, body)
        if isinstance(outcome, clstr.OverloadedError):
            outcome.bound = int(outcome.bound)
        return outcome


@breaks("T10.2")
class BuffersAreReplies(Answers):
    """A handler may return any buffer."""

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        super().handler_returned(delivery, bytes(result) if isinstance(result, bytearray | memoryview) else result)


@breaks("T1.1", "T1.3", "T11.1", "T11.2")
class ReplyLimitIsOneTooLow(Answers):
    """A reply of exactly as many bytes as may pass is too large."""

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        if isinstance(result, bytes) and len(result) == self._payload_limit.current():
            self._fail(delivery, self._payload_limit.exceeded(len(result), is_reply=True))
        super().handler_returned(delivery, result)


@breaks("T1.1", "T1.3", "T11.1")
class NotifyLimitIsOneTooLow(Sender):
    """A notify may have one byte less than a request."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        limit = self._payload_limit.current()
        if oneway and len(envelope.data) == limit:
            raise PayloadTooLargeError(limit, limit - 1)
        return await super().exchange(envelope, timeout, oneway=oneway)
