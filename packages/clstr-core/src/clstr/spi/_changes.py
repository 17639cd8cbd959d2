"""Waiting for the next change of something, until a deadline."""

from __future__ import annotations

import asyncio


class Changes:
    """Wakes all that wait for a change."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def wake(self) -> None:
        """Say that something has changed."""
        for changed in self._waiting:
            if not changed.done():
                changed.set_result(None)

    async def wait(self, deadline: float) -> bool:
        """Wait for a change; return ``False`` at ``deadline``, in loop time."""
        changed = self._loop.create_future()
        self._waiting.add(changed)
        try:
            async with asyncio.timeout_at(deadline):
                await changed
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(changed)
        return True
