"""One at a time, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque

from clstr._context import current


class Turns:
    """
    A lock that is first come, first served, and whose place in the queue is taken before anything is awaited.

    Who waits lends the slot of the message that it handles.
    """

    __slots__ = ("_is_taken", "_waiting")

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] | None = None  # most are never waited for

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting) if self._waiting else 0

    @property
    def is_taken(self) -> bool:
        """Whether it is somebody's turn."""
        return self._is_taken

    def try_take(self) -> bool:
        """Take the turn if it is nobody's."""
        if self._is_taken:
            return False
        self._is_taken = True
        return True

    async def take(self) -> None:
        """Wait for one's turn. Each needs its `end`."""
        if self.try_take():
            return
        if self._waiting is None:
            self._waiting = deque()
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        inside = current()
        if inside is not None:
            inside.park()
        try:
            await mine
        except BaseException:
            self._give_up(mine)
            raise
        finally:
            if inside is not None:
                inside.unpark()

    def end(self) -> None:
        """End one's turn: it is the next one's."""
        while self._waiting:
            following = self._waiting.popleft()
            if not following.done():
                following.set_result(None)
                return
        self._is_taken = False
        self._waiting = None

    def _give_up(self, mine: asyncio.Future[None]) -> None:
        if mine.done() and not mine.cancelled():
            self.end()  # it was given the turn in the tick in which it was cancelled
        elif self._waiting and mine in self._waiting:  # `end` may have passed it over since
            self._waiting.remove(mine)
