"""Stops of many keys at once: a bounded number runs at a time, and each is timed from its own start."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from clstr._actors.stops import STOP_TIMEOUT
from clstr._rate_limited_log import RateLimitedLog
from clstr._tasks import required_task
from clstr.errors import StateNotStoredError

MAX_STOPS = 100  # what stores state shares a pool of connections: more at once would only wait for each other
LATE_AFTER = 3 * STOP_TIMEOUT  # cancelling tasks, the user's callback, and cancelling what that spawned


@dataclass(eq=False, slots=True)
class Stop:
    """
    One stop, from its request to its end.

    Attributes:
        key: Whose stop it is.
        why: The cause, for the log.
        over: Set when the stop has ended, or is late; the result tells whether the state is stored.
        task: Runs the stop, once its turn has come.
        late: Ends the wait for a stop that ignores its cancellation.
    """

    key: str
    why: str
    over: asyncio.Future[bool]
    task: asyncio.Task[bool] | None = None
    late: asyncio.TimerHandle | None = None

    @property
    def is_stored(self) -> bool:
        """Whether the stop has ended, and the state is stored."""
        return self.over.done() and self.over.result()

    def end(self, *, is_stored: bool) -> None:
        """Note the end; nothing happens if the stop is over."""
        if self.late is not None:
            self.late.cancel()
        if not self.over.done():
            self.over.set_result(is_stored)


class StopQueue:
    """
    Runs stops, at most ``limit`` at a time, in the order in which they were added.

    A stop that is late, since something in it ignores its cancellation, gives its place to the next one.

    Args:
        limit: How many stops run at a time.
        make_use: Called when a place is free that no stop waits for.
        log: Is told of stops that are late.
    """

    def __init__(self, limit: int, make_use: Callable[[], object], log: RateLimitedLog) -> None:
        self.limit: int = limit
        self._make_use = make_use
        self._log = log
        self._waiting: deque[tuple[Stop, Callable[[], Coroutine[Any, Any, bool]], contextvars.Context]] = deque()
        self._running: set[Stop] = set()
        self._late: set[Stop] = set()

    def has_room(self) -> bool:
        """Whether one more stop would run at once."""
        return len(self._running) < self.limit

    def new(self, key: str, why: str) -> Stop:
        """Return a stop to `add` when its turn at the key has come."""
        return Stop(key, why, asyncio.get_running_loop().create_future())

    def add(self, stop: Stop, work: Callable[[], Coroutine[Any, Any, bool]], context: contextvars.Context) -> None:
        """Run ``work``, which tells whether the state is stored, in a copy of ``context``: now, or in its turn."""
        self._waiting.append((stop, work, context))
        self._fill()

    def _fill(self) -> None:
        while self._waiting and self.has_room():
            self._begin(*self._waiting.popleft())

    def _begin(self, stop: Stop, work: Callable[[], Coroutine[Any, Any, bool]], context: contextvars.Context) -> None:
        loop = asyncio.get_running_loop()
        self._running.add(stop)
        stop.late = loop.call_later(LATE_AFTER, self._give_up, stop, context=contextvars.Context())
        stop.task = required_task(work(), context.copy(), self._log)
        # The callback runs no user code, but what it starts must not inherit the context of this stop.
        stop.task.add_done_callback(lambda task: self._ended(stop, task), context=contextvars.Context())

    def _give_up(self, stop: Stop) -> None:
        """Wait no longer for a stop that is late. It goes on by itself."""
        self._running.discard(stop)
        self._late.add(stop)  # the loop alone would let its task be collected
        text = "the stop of key %r ignores its cancellation: nothing waits for it any longer"
        self._log.say(logging.ERROR, text, stop.key)
        stop.end(is_stored=False)
        self._next()

    def _ended(self, stop: Stop, task: asyncio.Task[bool]) -> None:
        self._running.discard(stop)
        self._late.discard(stop)
        if task.cancelled():  # nobody but a closing program cancels a stop: what waits has no loop to run on
            self._abandon()
        stop.end(is_stored=not task.cancelled() and task.result())
        self._next()

    def abort(self) -> None:
        """Cancel what runs, and begin nothing that waits."""
        self._abandon()
        for stop in (*self._running, *self._late):
            if stop.task is not None:
                stop.task.cancel()

    def _abandon(self) -> None:
        while self._waiting:
            self._waiting.popleft()[0].end(is_stored=False)

    def _next(self) -> None:
        self._fill()
        if self.has_room():
            self._make_use()


def not_stored(stops: Iterable[Stop]) -> list[str]:
    """Return the keys whose state is not stored, in alphabetical order."""
    return sorted({stop.key for stop in stops if not stop.is_stored})


def log_cut_short(stops: Iterable[Stop], what: str, logger: logging.Logger) -> None:
    """Say what is not stored when nobody waits for ``stops`` any longer: only what still runs then can store it."""
    left = not_stored(stops)
    if left:
        logger.error("the wait for %s was cancelled: %s", what, StateNotStoredError(left))
