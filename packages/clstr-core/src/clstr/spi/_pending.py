"""Requests that wait for an answer."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable

from clstr._limits import Limits
from clstr.errors import ClstrError, OverloadedError, RequestTimeoutError
from clstr.spi._deadlines import Deadlines
from clstr.spi._link import Route
from clstr.spi._stats import Stats

Outcome = bytes | ClstrError


class Pending:
    """
    One request in flight.

    Attributes:
        token: Its number on the link; never used again.
        outcome: The reply's bytes or the error. Errors are results here, so that one that nobody awaits is no noise.
        route: Where it went, once it was sent.
    """

    __slots__ = ("outcome", "route", "shard", "size", "tick", "timeout", "token")

    def __init__(self, token: int, outcome: asyncio.Future[Outcome], shard: int, size: int, timeout: float) -> None:
        self.token = token
        self.outcome = outcome
        self.shard = shard
        self.size = size
        self.timeout = timeout
        self.route: Route = None
        self.tick = 0

    def resolve(self, outcome: Outcome) -> bool:
        """Set the outcome, unless there is one: answered, expired or cancelled in the same tick."""
        if self.outcome.done():
            return False
        self.outcome.set_result(outcome)
        return True

    def expire(self) -> None:
        """Give up: the caller's time is over."""
        self.resolve(RequestTimeoutError(self.shard, self.timeout))


class PendingReplies:
    """The table of requests in flight, by token."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, deadlines: Deadlines, stats: Stats) -> None:
        self._loop = loop
        self._limits = limits
        self._deadlines = deadlines
        self._stats = stats
        self._by_token: dict[int, Pending] = {}
        self._bytes = 0
        # A random start: a reply to an earlier life of this peer must not meet a token of this one.
        self._tokens = itertools.count(secrets.randbits(48))

    def __len__(self) -> int:
        return len(self._by_token)

    @property
    def inflight_bytes(self) -> int:
        """The data bytes that wait for a reply."""
        return self._bytes

    def open(self, shard: int, size: int, deadline: float, timeout: float) -> Pending:
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
        self._by_token[pending.token] = pending
        self._bytes += size
        pending.tick = self._deadlines.add(deadline, pending)
        return pending

    def close(self, pending: Pending) -> None:
        """Forget a request, however it ended."""
        del self._by_token[pending.token]
        self._bytes -= pending.size
        self._deadlines.discard(pending.tick, pending)

    def resolve(self, token: int, outcome: Outcome) -> None:
        """End the request ``token``; if it is not in flight any more the answer is counted as late."""
        pending = self._by_token.get(token)
        if pending is None or not pending.resolve(outcome):
            self._stats.late_replies += 1

    def fail_route(self, route: Route, new_error: Callable[[], ClstrError]) -> None:
        """End every request that went along ``route``."""
        for pending in self._by_token.values():
            if pending.route == route:
                pending.resolve(new_error())

    def fail_all(self, new_error: Callable[[], ClstrError]) -> None:
        """End every request."""
        for pending in self._by_token.values():
            pending.resolve(new_error())
