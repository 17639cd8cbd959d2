"""How late the event loop runs its timers: while it is late, this peer neither answers nor keeps its leases."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable

from clstr._messages.envelope import Envelope
from clstr._rate_limited_log import RateLimitedLog
from clstr.spi._counters import Counters

INTERVAL = 0.25  # seconds between measurements: a stall is measured short by this at most
THRESHOLD = 0.5  # seconds of lag worth a warning: callers notice it, and garbage collection seldom takes as long
QUIET_SECONDS = 10.0  # a loop that is blocked again and again must not be busy with logging too
MAX_NAMED = 3  # handlers that one line names
BLOCKED = "the event loop was blocked, or the process did not run, for %.2f s%s; move blocking calls to a thread"


class LoopLag:
    """
    Measures the lag of the loop while there is work, and warns if it is large.

    The timer runs only while there is work: a program on virtual time still notices that nothing can happen.

    Args:
        loop: What is measured; its clock tells the time.
        counters: Where the lag is counted.
        logger: Told types and shards of messages, no payloads.
        is_needed: Whether there is work that a blocked loop delays.
        running: Names the messages whose handlers run, at most as many as asked for.

    Attributes:
        is_armed: Whether it measures, or never will again. Read for each message, before `arm` is called.
        recent: The shards of messages whose handlers ended since the last measurement, by type.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        logger: logging.Logger,
        *,
        is_needed: Callable[[], bool],
        running: Callable[[int], list[str]],
    ) -> None:
        self._loop = loop
        self._counters = counters
        self._log = RateLimitedLog(logger, seconds=QUIET_SECONDS, clock=loop.time)
        self._is_needed = is_needed
        self._running = running
        self._context = contextvars.Context()  # not that of the message that arms the timer: it would live on in it
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._culprits: list[str] = []
        self.is_armed: bool = False
        self.recent: dict[str, int] = {}

    def arm(self) -> None:
        """Measure until there is no work left."""
        self.is_armed = True
        self._culprits.clear()
        self.recent.clear()
        self._due = self._loop.time() + INTERVAL
        self._timer = self._loop.call_at(self._due, self._measure, context=self._context)

    def stop(self) -> None:
        """Measure no more, for good."""
        self.is_armed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stepped(self, envelope: Envelope, seconds: float) -> None:
        """Note that one step of the handler of ``envelope`` took so many seconds."""
        if seconds >= THRESHOLD and len(self._culprits) < MAX_NAMED:
            self._culprits.append(f"shard {envelope.shard}, type {envelope.type!r} ({seconds:.2f} s)")

    def _measure(self) -> None:
        lag = self._loop.time() - self._due
        self._counters.longest_loop_lag = max(self._counters.longest_loop_lag, lag)
        if lag >= THRESHOLD:
            self._counters.loop_stalls += 1
            self._log.say(logging.WARNING, BLOCKED, lag, self._suspects())
        self._timer = None
        if self._is_needed():
            self.arm()
        else:
            self.is_armed = False

    def _suspects(self) -> str:
        """Name the handlers that blocked the loop if that is known, else those that ran meanwhile."""
        if self._culprits:
            return f" by the handler of {'; '.join(self._culprits)}"
        ended = [f"shard {shard}, type {type_!r}" for type_, shard in self.recent.items()]
        suspects = [*ended[:MAX_NAMED], *self._running(MAX_NAMED)]
        if not suspects:
            return ""
        some = [*suspects[:MAX_NAMED], *(["..."] if len(suspects) > MAX_NAMED or len(ended) > MAX_NAMED else [])]
        return f" while these handlers ran: {'; '.join(some)}"
