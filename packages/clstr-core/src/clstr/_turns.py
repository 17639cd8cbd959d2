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
        self._waiting: deque[asyncio.Future[bool]] | None = None  # most are never waited for

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

    async def take(self) -> bool:
        """Wait for one's turn, which needs its `end`; return ``False`` if one was sent away."""
        if self.try_take():
            return True
        if self._waiting is None:
            self._waiting = deque()
        mine: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        inside = current()
        if inside is not None:
            inside.park()
        try:
            return await mine
        except BaseException:
            self._give_up(mine)
            raise
        finally:
            if inside is not None:
                inside.unpark()

    def end(self) -> None:
        """End one's turn: it is the next one's."""
        following = self._pop()
        if following is not None:
            following.set_result(True)
            return
        self._is_taken = False
        self._waiting = None

    def _pop(self) -> asyncio.Future[bool] | None:
        """Take the first who still waits out of the queue."""
        while self._waiting:
            following = self._waiting.popleft()
            if not following.done():
                return following
        return None

    async def let_one(self) -> None:
        """Give one's turn to the next one, who waits or comes first, and take it back right behind."""
        if self._waiting is None:
            self._waiting = deque()
        mine: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        following = self._pop()
        self._waiting.appendleft(mine)
        if following is None:
            self._is_taken = False
        else:
            following.set_result(True)
        try:
            await mine
        except BaseException:
            self._give_up(mine)
            raise

    def send_away(self) -> None:
        """Let nobody wait any more; whose turn it is keeps it."""
        waiting, self._waiting = self._waiting or (), None
        for mine in waiting:
            if not mine.done():
                mine.set_result(False)

    def _give_up(self, mine: asyncio.Future[bool]) -> None:
        if mine.done() and not mine.cancelled() and mine.result():
            self.end()  # it was given the turn in the tick in which it was cancelled
        elif self._waiting and mine in self._waiting:  # `end` may have passed it over since
            self._waiting.remove(mine)
