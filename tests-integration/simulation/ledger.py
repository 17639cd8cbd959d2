"""What was seen in a schedule, and what must be true of it: the safety oracle."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from clstr.errors import (
    ClstrError,
    HandlerError,
    HandlerTimeoutError,
    InvalidReplyError,
    NotOwnerError,
    OverloadedError,
    PayloadTooLargeError,
    RequestTimeoutError,
)
from clstr.spi import Route
from simulation.script import Call

GRANULARITY = 0.01  # of the engine's deadlines, upwards
MARGIN = 0.001  # a thousand turns of the loop: virtual time passes by a microsecond in each
ATTEMPTS = 4  # the first send, and three after a `not_owner`

_TYPE = re.compile(rb"#(\d+);")


class Ledger(logging.Handler):
    """
    Records events, and finds what must not be.

    Attributes:
        trace: Every event: its time, its name, and a fact.
        violations: What must not be, in words.
    """

    def __init__(self, calls: list[Call]) -> None:
        super().__init__(logging.ERROR)
        self.calls = calls
        self.trace: list[tuple[float, str, object]] = []
        self.violations: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._unhandled)
        self.logger = logging.Logger("simulation", logging.ERROR)  # noqa: LOG001 -- one for each schedule, unregistered
        self.logger.addHandler(self)

    def note(self, event: str, fact: object = "") -> None:
        """Record an event."""
        self.trace.append((self._loop.time(), event, fact))

    def violated(self, what: str, call: Call | None = None) -> None:
        """Record that something must not be."""
        about = "" if call is None else f" (call {call.number}: {call.behaviour})"
        self.note("VIOLATION", what)
        self.violations.append(f"{what}{about}")

    def expect(self, truth: object, what: str, call: Call | None = None) -> None:
        """Record a violation unless ``truth`` holds."""
        if not truth:
            self.violated(what, call)

    def emit(self, record: logging.LogRecord) -> None:
        """Receive what the engine logs as an error: a defect of its own."""
        self.violated(f"the engine logged an error: {record.getMessage()}: {record.exc_info and record.exc_info[1]!r}")

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.violated(f"unhandled in the loop: {context['message']}: {context.get('exception')!r}")

    # On the way.

    def whose(self, body: bytes) -> Call:
        """Return the call that a message belongs to."""
        found = _TYPE.search(body)
        assert found is not None
        return self.calls[int(found[1])]

    def sent(self, call: Call, token: int, link: str, route: Route) -> None:
        """A message has left."""
        self.note(f"{link} sent", call.number)
        self.expect(call.sends == 0 or call.proof, "sent again without proof that it never ran", call)
        self.expect(call.sends < ATTEMPTS, "sent again too often", call)
        self.expect(call.done_at < 0, "sent after its caller was told its outcome", call)
        call.sends += 1
        call.token, call.link, call.route = token, link, route
        call.proof, call.answered_at, call.lost_at = False, -1.0, -1.0

    def lost(self, link: str, route: Route = None) -> None:
        """A link is gone, or what lies behind one of its routes: nobody must wait for an answer from there."""
        for call in self.calls:
            is_meant = call.link == link and route in {None, call.route}
            if is_meant and call.is_in_flight() and call.lost_at < 0:
                call.lost_at = self._loop.time()

    def delivered(self, call: Call | None, link: str) -> None:
        """A message was handed to an engine."""
        if call is not None:
            self.note(f"{link} delivered", call.number)
            call.delivered_at = self._loop.time()

    def answered(self, call: Call | None, token: int, body: bytes) -> None:
        """An answer reached the caller's engine."""
        self.note("answer", call and call.number)
        if call is None or call.done_at >= 0 or token != call.token:
            return
        if b"not_owner" in body:
            call.proof = True
        elif call.answered_at < 0:
            call.answered_at = self._loop.time()

    # The outcome.

    def done(self, call: Call, outcome: bytes | BaseException | None) -> None:
        """A caller was told the outcome of its call."""
        now = call.done_at = self._loop.time()
        call.outcome = outcome
        self.note(f"done: {type(outcome).__name__}", call.number)
        self.expect(now <= call.asked_at + call.timeout + GRANULARITY + MARGIN, "ended after its deadline", call)
        if call.answered_at >= 0:
            self.expect(now <= call.answered_at + MARGIN, "waited on although its answer was there", call)
        if call.lost_at >= 0:
            self.expect(now <= call.lost_at + MARGIN, "waited on although the connection was lost", call)
        if call.cancelled_at >= 0:
            self.expect(now <= call.cancelled_at + MARGIN, "went on after its cancellation", call)
        if isinstance(outcome, BaseException) and not isinstance(outcome, (ClstrError, asyncio.CancelledError)):
            self.violated(f"ended with {outcome!r}", call)

    def judge(self, call: Call, *, is_harmless: bool) -> None:
        """Hold a call against the oracle, when nothing can happen to it any more."""
        self.expect(call.executions <= 1, f"executed {call.executions} times", call)
        if call.asked_at < 0:
            self.expect(call.starts == 0, "ran although nobody sent it", call)
            return
        self.expect(call.done_at >= 0, "its caller never got an outcome", call)
        self._judge_outcome(call)
        if is_harmless:
            self._judge_harmless(call)

    def _judge_outcome(self, call: Call) -> None:
        outcome = call.outcome
        if isinstance(outcome, bytes):
            self.expect(outcome == call.reply, f"answered {outcome!r} for {call.reply!r}", call)
            self.expect(call.executions == 1, f"answered, but executed {call.executions} times", call)
            self.expect(call.behaviour not in _NEVER_ANSWER, "answered by a handler that does not answer", call)
        elif isinstance(outcome, ClstrError) and not outcome.maybe_executed:
            name = type(outcome).__name__
            self.expect(call.executions == 0, f"{name} says that it never ran, but it did", call)
        elif isinstance(outcome, HandlerError) and outcome.error_type != "CancelledError":
            # One that was cancelled, at its deadline or while draining, may have ended before its first step.
            self.expect(call.executions == 1, f"HandlerError, but executed {call.executions} times", call)
        self.expect(not isinstance(outcome, InvalidReplyError), "what is no reply ended a request", call)
        if isinstance(outcome, _AFTER_SENDING):
            self.expect(outcome.maybe_executed, f"{type(outcome).__name__} says that it never ran", call)
        if isinstance(outcome, RequestTimeoutError) and call.sends == 0:
            self.expect(not outcome.maybe_executed, "nothing was sent, but it may have been executed", call)

    def _judge_harmless(self, call: Call) -> None:
        if call.oneway:
            self.expect(call.outcome is None, f"a notify failed with {call.outcome!r}", call)
            self.expect(call.starts >= 1, "a notify was lost", call)
            return
        expected = _EXPECTED.get(call.behaviour, bytes)
        self.expect(isinstance(call.outcome, expected), f"ended with {call.outcome!r}", call)


_NEVER_ANSWER = {
    "raise",
    "raise_refusal_type",
    "cancel_self",
    "wrong_type",
    "too_large",
    "refuse",
    "refuse_owner",
}
_AFTER_SENDING = (HandlerError, HandlerTimeoutError)
_EXPECTED: dict[str, type[ClstrError]] = {
    "raise": HandlerError,
    "raise_refusal_type": HandlerError,
    "cancel_self": HandlerError,
    "wrong_type": HandlerError,
    "too_large": PayloadTooLargeError,
    "refuse": OverloadedError,
    "refuse_owner": NotOwnerError,
}
