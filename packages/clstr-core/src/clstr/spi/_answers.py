"""What goes back to the sender of a message: exactly one answer, or none if it is a notify."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from clstr._context import is_refusal_of
from clstr._limits import MAX_ERROR_BYTES, MAX_TYPE_CHARACTERS
from clstr._messages.error_wire import clip, encode_error
from clstr._messages.wire import Codec
from clstr._rate_limited_log import RateLimitedLog
from clstr.errors import ClstrError, HandlerError, HandlerTimeoutError, UnknownMessageError
from clstr.spi._answer_budget import AnswerBudget
from clstr.spi._counters import Counters
from clstr.spi._deadlines import Deadlines
from clstr.spi._delivery import Delivery
from clstr.spi._held_answers import HeldAnswers
from clstr.spi._link import Link
from clstr.spi._payload_limit import PayloadLimit
from clstr.spi._unsent_answers import UnsentAnswers

# How much of an error's texts is sent: all that may be, or less where that is more than the broker carries.
ERROR_BYTES = (MAX_ERROR_BYTES, 64, 0)

HIDDEN = "the handler failed, and its node does not tell how: see the node's log"

GRACE = 1.0  # seconds that an answer is kept at least: who states a TTL may wait longer than that for the refusal


class Answers:
    """
    Encodes answers and hands them to the link.

    Args:
        link: What sends them.
        counters: Where refusals and losses are counted.
        logger: Told of what nobody else is told.
        payload_limit: The data bytes that an answer may have.
        deadlines: Where those that the link does not take wait for their deadline.
        budget: What counts the bytes of these.
        clock: The loop's.
        patience: Seconds that an answer is kept whose message stated no TTL.

    Attributes:
        unsent: The answers that the link did not take.
        held: The answers that their callers have no room for.
    """

    def __init__(
        self,
        link: Link,
        counters: Counters,
        logger: logging.Logger,
        *,
        payload_limit: PayloadLimit,
        deadlines: Deadlines,
        budget: AnswerBudget,
        clock: Callable[[], float],
        patience: float,
    ) -> None:
        self._link = link
        self._counters = counters
        self._logger = logger
        self._payload_limit = payload_limit
        self._clock = clock
        self._patience = patience
        self.unsent: UnsentAnswers = UnsentAnswers(self._offer, link.destination, deadlines, budget, self.dropped)
        self.held: HeldAnswers = HeldAnswers(link, self._send, deadlines, budget, dropped=self.dropped, logger=logger)
        self._log = RateLimitedLog(logger, clock=clock)

    def refuse(self, delivery: Delivery, error: ClstrError) -> None:
        """Answer that the message never ran."""
        self._counters.refused[error.code] += 1
        error.maybe_executed = False
        self._fail(delivery, error)

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        """Answer with the handler's bytes, or say what is wrong with them."""
        if result is None:
            result = b""
        if not isinstance(result, bytes):
            kind = type(result).__name__
            self._fail(delivery, _shown(delivery, "TypeError", f"the handler returned {kind}, not bytes or None"))
        elif len(result) > self._payload_limit.current():
            self._log.say(logging.WARNING, "a reply has %d bytes, too many (%s)", len(result), delivery)
            self._fail(delivery, self._payload_limit.exceeded(len(result), is_reply=True))
        elif not delivery.oneway and not delivery.answered:
            self._reply(delivery, result)
        delivery.answered = True

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        """Answer with what the handler raised: as it is only if it is a refusal of this very message (T10)."""
        if is_refusal_of(error, delivery) and isinstance(error, ClstrError):
            self.refuse(delivery, error)
        else:
            self._fail(delivery, _shown(delivery, type(error).__name__, _message(error)))

    def handler_timed_out(self, delivery: Delivery) -> None:
        """Answer that the handler had its time."""
        if not delivery.answered:
            self._counters.handler_timeouts += 1
            self._log.say(logging.WARNING, "a handler was cancelled after %.3g s (%s)", delivery.timeout, delivery)
        self._fail(delivery, HandlerTimeoutError(delivery.envelope.shard, delivery.timeout))

    def refuse_unread(self, codec: Codec, to: object, error: ClstrError) -> None:
        """Answer a message that was too broken to become a delivery."""
        self._counters.refused[error.code] += 1
        error.maybe_executed = False
        if to is not None:
            self._send(to, self._encode(codec, error))

    def confirm(self, codec: Codec, to: object) -> None:
        """Tell the sender of a notify that it has arrived at an owner of its shard."""
        if to is not None:
            self._send(to, codec.encode(codec.new_reply(b"")))

    def dropped(self, answers: int) -> None:
        """Count answers that reached nobody."""
        self._counters.dropped_replies += answers

    def refuse_unread_notify(self, shard: int, message_type: str, error: ClstrError) -> None:
        """Note that a notify was refused before it became a delivery."""
        self._counters.refused[error.code] += 1
        self._notify_failed(f"shard {shard}, type {clip(message_type, MAX_TYPE_CHARACTERS)!r}", error)

    def _notify_failed(self, what: object, error: ClstrError) -> None:
        """Say in the log that a notify failed: nobody else hears of it (T12)."""
        self._counters.notify_failures += 1
        text = _message(error)
        if isinstance(error, UnknownMessageError):  # a stranger chose the type: it is for the sender, not for the log
            what, text = "a type without a handler", f"known: {error.known or 'none'}"
        self._log.say(logging.WARNING, "a notify failed (%s): %s: %s", what, type(error).__name__, text)

    def _fail(self, delivery: Delivery, error: ClstrError) -> None:
        if delivery.answered:
            return
        delivery.answered = True
        if delivery.oneway:
            self._notify_failed(delivery, error)
        elif delivery.to is not None:
            self._send(delivery.to, self._encode(delivery.codec, error), delivery.expires)

    def _reply(self, delivery: Delivery, data: bytes) -> None:
        if delivery.to is None:
            return
        body = delivery.codec.encode(delivery.codec.new_reply(bytes(data)))  # a subclass has no encoding
        maximum = self._link.max_message_bytes
        if maximum is not None and len(body) > maximum:
            codec = delivery.codec
            too_large = self._payload_limit.exceeded_by_frame(len(data), len(body), codec, is_reply=True)
            body = self._encode(delivery.codec, too_large)
        elif 0 < delivery.room < len(data):
            deadline = self._kept_until(delivery.expires)
            self.held.keep(delivery.to, body, size=len(data), codec=delivery.codec, deadline=deadline)
            return
        self._send(delivery.to, body, delivery.expires)

    def _encode(self, codec: Codec, error: ClstrError) -> bytes:
        """Write an error, with less of its text and facts if the broker's messages are so small."""
        maximum = self._link.max_message_bytes
        for max_bytes in ERROR_BYTES:
            body = _encode(codec, error, max_bytes)
            if maximum is None or len(body) <= maximum:
                break
        return body

    def _send(self, to: object, body: bytes, expires: float = math.inf) -> None:
        """Send an answer now, or when the link takes it; ``expires`` is when its sender has given up, in loop time."""
        if not self._offer(to, body):
            self.unsent.keep(to, body, self._kept_until(expires))

    def _kept_until(self, expires: float) -> float:
        now = self._clock()
        return now + min(max(expires - now, GRACE), self._patience)

    def _offer(self, to: object, body: bytes) -> bool:
        try:
            return self._link.reply(to, body)
        except Exception as error:  # noqa: BLE001 -- it must not raise; if it does, that costs one answer, and no slot
            self._log.say(logging.ERROR, "the link failed to send an answer", kind=type(error), error=error)
            self.dropped(1)
            return True


def _shown(delivery: Delivery, error_type: str, message: str) -> HandlerError:
    """Return what is told of an exception; a notify's goes no further than the node's own log."""
    if delivery.oneway or delivery.errors == "text":
        return HandlerError(error_type, message)
    return HandlerError(error_type, "") if delivery.errors == "type" else HandlerError("", HIDDEN)


def _encode(codec: Codec, error: ClstrError, max_bytes: int) -> bytes:
    try:
        return encode_error(codec, error, max_bytes=max_bytes)
    except Exception:  # noqa: BLE001 -- a handler's refusal: its facts may be missing, or too large for the codec
        return encode_error(codec, HandlerError(type(error).__name__, _message(error)), max_bytes=max_bytes)


def _message(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError) and not error.args:
        return "the handler cancelled itself"
    try:
        return clip(str(error))
    except Exception as broken:  # noqa: BLE001 -- user code: __str__ may do anything
        return f"(its message cannot be read: {type(broken).__name__})"
