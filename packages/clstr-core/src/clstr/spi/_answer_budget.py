"""The bytes of answers that a transport keeps because they cannot leave yet, counted for each destination."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from clstr.spi._changes import Changes

# One destination may have this much: as much as a peer asks for at once with the default `max_inflight_bytes`.
MAX_DESTINATION_BYTES = 16 * 1024 * 1024
# Above the 100 answers of 1 MiB that handlers may return to one destination before its own bound stops the next ones.
MAX_TOTAL_BYTES = 128 * 1024 * 1024
OVERHEAD_BYTES = 512  # what an answer costs beside its body: ten thousand empty ones are not nothing


class AnswerBudget:
    """
    Decides whether more handlers may start, from the bytes of answers that wait to leave.

    Handlers that run may still return answers; these are kept too. So the memory that answers take is bounded by this
    budget and by the answers of the handlers that run.

    Args:
        on_room: Called when a destination, or the whole budget, has room again after it was used up.

    Attributes:
        is_full: Whether the whole budget is used up: no handler may start.
        blocked: The destinations whose share is used up: no handler may start for a message from there.
        total_bytes: The bytes of all answers that wait.
    """

    def __init__(self, on_room: Callable[[], None]) -> None:
        self._on_room = on_room
        self._bytes: dict[Hashable, int] = {}
        self._settled = Changes(asyncio.get_running_loop())
        self.is_full: bool = False
        self.blocked: set[Hashable] = set()
        self.total_bytes: int = 0

    def add(self, destination: Hashable, size: int) -> None:
        """Count an answer of ``size`` bytes that waits."""
        size += OVERHEAD_BYTES
        self.total_bytes += size
        self._bytes[destination] = used = self._bytes.get(destination, 0) + size
        if used >= MAX_DESTINATION_BYTES:
            self.blocked.add(destination)
        if self.total_bytes >= MAX_TOTAL_BYTES:
            self.is_full = True

    def remove(self, destination: Hashable, size: int) -> None:
        """Count an answer of ``size`` bytes that waits no longer."""
        size += OVERHEAD_BYTES
        self.total_bytes -= size
        left = self._bytes[destination] - size
        if left:
            self._bytes[destination] = left
        else:
            del self._bytes[destination]
        # Half, so that a slow receiver does not start one handler for each answer that it takes.
        has_room = destination in self.blocked and left <= MAX_DESTINATION_BYTES // 2
        if has_room:
            self.blocked.discard(destination)
        if self.is_full and self.total_bytes <= MAX_TOTAL_BYTES // 2:
            self.is_full = False
            has_room = True
        if has_room:
            self._on_room()
        if not self.total_bytes:
            self._settled.wake()

    async def settle(self, deadline: float) -> bool:
        """Wait until no answer waits any more; return ``False`` if ``deadline``, in loop time, came first."""
        while self.total_bytes:
            if not await self._settled.wait(deadline):
                return False
        return True
