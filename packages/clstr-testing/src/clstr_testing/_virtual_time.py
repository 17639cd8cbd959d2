"""An event loop whose time passes only when nothing else can happen."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

TICK = 1e-6


class NothingCanHappenError(RuntimeError):
    """Every task waits, no timer is set, and no file descriptor is watched: the program would wait for ever."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """
    A loop with a clock of its own: it jumps to the next timer as soon as nothing is ready to run.

    A test that waits for 30 seconds takes no time, and always the same. Each turn of the loop takes a microsecond,
    so that a program that only spins sees its deadlines pass too. For programs that talk to nobody outside: while the
    loop waits for a socket or a thread, time does not pass.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        """Return the seconds that have passed since the loop was made."""
        return self._now

    def pass_time(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self._now += seconds


class _VirtualSelector(selectors.BaseSelector):
    """Asks the real selector what is ready, and lets virtual time pass where it would wait."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; wait for real only if there is nothing but outside events to wait for."""
        self._loop.pass_time(TICK)
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        if timeout is not None:
            self._loop.pass_time(max(0.0, timeout))
            return ready
        if len(self._real.get_map()) <= 1:  # the loop's own wake-up pipe
            raise NothingCanHappenError("every task waits for something that nobody will do")
        return self._real.select(None)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file descriptor."""
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Watch it no longer."""
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch it for other events."""
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        """Release the real selector."""
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return what is watched."""
        return self._real.get_map()
