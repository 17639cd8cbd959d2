"""One timer wheel for all deadlines: a `loop.call_at` for each would cost four times as much."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
from typing import Protocol

GRANULARITY = 0.01
SWEEP_BUCKETS = 1024


class Expiring(Protocol):
    """Something with a deadline. Hashed by identity."""

    def expire(self) -> None:
        """The deadline is over. Must not raise."""


class Deadlines:
    """
    Calls `Expiring.expire` at a deadline, never early and at most 10 ms late.

    Adding and discarding are O(1); one `loop.call_at` is armed for the earliest of all. When nothing is left the armed
    one runs out by itself, once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._context = contextvars.Context()  # not that of whoever happens to arm the timer: it would live on in it
        self._buckets: dict[int, dict[Expiring, None]] = {}  # in order: what is due in one tick expires as it came
        self._ticks: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0
        self._sweep_at = SWEEP_BUCKETS
        self._is_retired = False

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, when: float, item: Expiring) -> int:
        """Expire ``item`` at ``when`` on the loop's clock; return the tick to `discard` it with."""
        tick = math.ceil(when / GRANULARITY)
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {item: None}
            heapq.heappush(self._ticks, tick)
            if len(self._buckets) > self._sweep_at:
                self._sweep()
            self._arm()
        else:
            bucket[item] = None
        return tick

    def discard(self, tick: int, item: Expiring) -> None:
        """Forget ``item``; nothing happens if it expired already."""
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.pop(item, None)
            if self._is_retired:
                self.retire()

    def retire(self) -> None:
        """Leave no timer behind when nothing is left, now or later."""
        self._is_retired = True
        if self._timer is not None and not len(self):
            self._timer.cancel()
            self._timer = None
            self._buckets.clear()
            self._ticks.clear()

    def _sweep(self) -> None:
        """Forget empty buckets: with timeouts of hours, many would wait for their tick."""
        self._buckets = {tick: bucket for tick, bucket in self._buckets.items() if bucket}
        self._ticks = sorted(self._buckets)
        self._sweep_at = max(SWEEP_BUCKETS, 2 * len(self._buckets))

    def _arm(self) -> None:
        earliest = self._ticks[0]
        if self._timer is not None:
            if self._armed_for <= earliest:
                return
            self._timer.cancel()
        self._armed_for = earliest
        self._timer = self._loop.call_at(earliest * GRANULARITY, self._run, context=self._context)

    def _run(self) -> None:
        # The loop runs timers up to its resolution early, hence at least the tick that it was armed for.
        due = max(self._armed_for, math.floor(self._loop.time() / GRANULARITY))
        self._timer = None
        expired: list[Expiring] = []
        while self._ticks and (self._ticks[0] <= due or not self._buckets[self._ticks[0]]):
            expired.extend(self._buckets.pop(heapq.heappop(self._ticks)))
        if self._ticks:
            self._arm()
        for item in expired:
            item.expire()
