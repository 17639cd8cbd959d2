"""Requests that wait for an answer."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from clstr._limits import Limits
from clstr.errors import ClstrError, OverloadedError, RequestTimeoutError
from clstr.spi._answer_window import MIN_ROOM, AnswerWindow, Held
from clstr.spi._counters import Counters
from clstr.spi._deadlines import Deadlines
from clstr.spi._link import Route


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Not an outcome yet: the link says that the message is worth sending once more, after ``delay`` seconds."""

    error: ClstrError
    delay: float


Outcome = bytes | ClstrError | AskAgain | Held

TOKENS_AT_ONCE = 256  # one call to the system for each would cost ten times as much


def random_tokens(random_bytes: Callable[[int], bytes] = os.urandom) -> Iterator[int]:
    """
    Return an endless iterator of tokens, 64-bit numbers.

    Who answers a request proves by its token that it has read the request: no token may follow from another one. That
    two requests in flight have the same one is as unlikely as guessing it.

    Args:
        random_bytes: Returns so many random bytes.
    """
    draws = (memoryview(random_bytes(8 * TOKENS_AT_ONCE)).cast("Q") for _ in itertools.repeat(None))
    return itertools.chain.from_iterable(draws)


class Pending(msgspec.Struct, eq=False):
    """
    One request in flight.

    Attributes:
        token: Its number on the link, which nobody can guess.
        outcome: The reply's bytes or the error. Errors are results here, so that one that nobody awaits is no noise.
        was_sent: Whether the link has it: before that it certainly did not run.
        route: Where it went, once it was sent.
        foreign: What is known of something that is no node and answered all the same.
        room: The data bytes that its answer may have; 0 is any number.
        message_type: Its message's; ``None`` if it is a notify.
        needs_confirmation: Whether only a node's answer ends it, and not that the broker accepted it: for notifies.
    """

    token: int
    outcome: asyncio.Future[Outcome]
    shard: int
    size: int
    timeout: float
    route: Route = None
    tick: int = 0
    was_sent: bool = False
    foreign: str = ""
    room: int = 0
    message_type: str | None = None
    needs_confirmation: bool = False

    def __repr__(self) -> str:
        return object.__repr__(self)  # not that of a struct: its outcome is no text for logs

    def resolve(self, outcome: Outcome) -> bool:
        """Set the outcome, unless there is one: answered, expired or cancelled in the same tick."""
        if self.outcome.done():
            return False
        self.outcome.set_result(outcome)
        return True

    def was_not_sent(self) -> None:
        """The link did not take it; what it said of its own end meanwhile is not this request's."""
        self.was_sent = False
        if self.outcome.done():
            self.outcome = self.outcome.get_loop().create_future()

    def expire(self) -> None:
        """Give up: the caller's time is over."""
        self.resolve(RequestTimeoutError(self.shard, self.timeout, self.foreign, maybe_executed=self.was_sent))


class PendingReplies:
    """
    The table of requests in flight, by token.

    Attributes:
        window: What their answers share.
        by_route: Those that went along each route, but for ``None``, in the order in which they did.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: Limits, deadlines: Deadlines, counters: Counters
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._deadlines = deadlines
        self._counters = counters
        self._by_token: dict[int, Pending] = {}
        self.by_route: defaultdict[Route, dict[Pending, None]] = defaultdict(dict)
        self._bytes = 0
        self._tokens = random_tokens()
        self.window: AnswerWindow = AnswerWindow(limits.max_inflight_bytes)

    def __len__(self) -> int:
        return len(self._by_token)

    @property
    def inflight_bytes(self) -> int:
        """The data bytes that wait for a reply."""
        return self._bytes

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        """
        Enter a request of ``size`` data bytes; each needs its `close`.

        Raises:
            OverloadedError: ``max_inflight_requests`` or ``max_inflight_bytes`` is reached.
        """
        if len(self._by_token) >= self._limits.max_inflight_requests:
            raise OverloadedError("max_inflight_requests", self._limits.max_inflight_requests)
        if self._bytes + size > self._limits.max_inflight_bytes:
            raise OverloadedError("max_inflight_bytes", self._limits.max_inflight_bytes)
        pending = Pending(next(self._tokens), self._loop.create_future(), shard, size, timeout)
        pending.tick = self._deadlines.add(deadline, pending)
        if message_type is not None:
            pending.message_type = message_type
            # Most types have small answers, which take nothing of the window: no call for them.
            pending.room = MIN_ROOM if message_type in self.window.small else self.window.reserve(message_type)
        self._by_token[pending.token] = pending
        self._bytes += size
        return pending

    def close(self, pending: Pending) -> None:
        """Forget a request, however it ended."""
        del self._by_token[pending.token]
        self._bytes -= pending.size
        if pending.route is not None:  # as `_leave_route`, without a call for each request
            group = self.by_route[pending.route]
            del group[pending]
            if not group:
                del self.by_route[pending.route]
        if pending.room > MIN_ROOM:
            self.window.release(pending.room)
        self._deadlines.discard(pending.tick, pending)

    def renew(self, pending: Pending, deadline: float) -> None:
        """Let a request that got an outcome wait for another one, under another token."""
        del self._by_token[pending.token]
        self._deadlines.discard(pending.tick, pending)
        self._leave_route(pending)
        pending.token, pending.outcome = next(self._tokens), self._loop.create_future()
        pending.tick = self._deadlines.add(deadline, pending)
        self._by_token[pending.token] = pending

    def went(self, pending: Pending, route: Route) -> None:
        """Note that a request went along ``route``."""
        self._leave_route(pending)
        pending.route = route
        if route is not None:
            self.by_route[route][pending] = None

    def _leave_route(self, pending: Pending) -> None:
        group = self.by_route.get(pending.route)
        if group is not None:
            group.pop(pending, None)
            if not group:  # routes come and go
                del self.by_route[pending.route]
        pending.route = None

    def get(self, token: int) -> Pending | None:
        """Return the request ``token`` if it is in flight; if it is not, its answer is counted as late."""
        pending = self._by_token.get(token)
        if pending is None or pending.outcome.done():
            self._counters.late_replies += 1
            return None
        return pending

    def resolve(self, token: int, outcome: Outcome) -> None:
        """End the request ``token``."""
        pending = self.get(token)
        if pending is not None:
            pending.resolve(outcome)

    def fail_route(self, route: Route, error: type[ClstrError], message: str) -> None:
        """End every request that was sent along ``route`` with an error of its own."""
        for pending in self.by_route.get(route, ()):
            if pending.was_sent:
                pending.resolve(error(message, maybe_executed=True))

    def fail_sent(self, error: type[ClstrError], message: str) -> None:
        """End every request that was sent; those that wait for the link go on waiting."""
        for pending in self._by_token.values():
            if pending.was_sent:
                pending.resolve(error(message, maybe_executed=True))
