"""A loop whose clock jumps to the next timer when nothing is ready: 30 s timeouts take no time."""

from __future__ import annotations

import asyncio
import selectors

START = 1000.0


class _JumpingSelector(selectors.DefaultSelector):
    now = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("deadlock: every task waits for something that will never happen")
            self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Waits for nothing but its own timers."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def jump(self, seconds: float) -> None:
        """Let ``seconds`` pass at once, as if a callback had blocked the loop."""
        self._jumping.now += seconds
