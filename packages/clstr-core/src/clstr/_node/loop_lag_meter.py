"""How late the event loop of a node runs its timers, measured all the time."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

INTERVAL = 1.0  # seconds between measurements: a stall is measured short by this at most


class LoopLagMeter:
    """
    Measures once a second by how much the loop runs a timer too late.

    Args:
        report: Gets the seconds of each measurement.
    """

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Measure on the running loop until `stop`."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(INTERVAL, self._measure, loop.time() + INTERVAL, context=contextvars.Context())

    def stop(self) -> None:
        """Measure no more; nothing happens if it does not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure(self, due: float) -> None:
        lag = max(0.0, asyncio.get_running_loop().time() - due)  # uvloop may be a millisecond early
        self.start()
        self._report(lag)
