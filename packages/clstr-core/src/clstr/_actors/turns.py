"""One at a time, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection

from clstr._context import current

Place = asyncio.Future[bool]


class Turns:
    """
    A lock that is first come, first served, and whose place in the queue is taken before anything is awaited.

    Who waits lends the slot of the message that it handles.
    """

    __slots__ = ("_is_taken", "_waiting")

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[Place] | None = None  # most are never waited for

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

    def claim(self, *, first: bool = False) -> Place:
        """Take one's place now, ahead of all who wait if ``first``; `wait` for the turn later."""
        place: Place = asyncio.get_running_loop().create_future()
        if self.try_take():
            place.set_result(True)
        else:
            self._queue(place, first=first)
        return place

    async def wait(self, place: Place) -> bool:
        """
        Wait for the turn, which needs its `end`; return ``False`` if one was sent away.

        Raises:
            ClstrError: The time of the message that is being handled is over: a refusal.
        """
        inside = None if place.done() else current()
        if inside is not None:
            inside.park()
        try:
            is_mine = await place
            if is_mine and inside is not None:
                inside.check_time()  # whoever had the turn may have blocked the loop: no timer has noticed yet
            return is_mine
        except BaseException:
            self._give_up(place)
            raise
        finally:
            if inside is not None:
                inside.unpark()

    async def take(self) -> bool:
        """Take one's place and wait for one's turn, as `claim` and `wait` do."""
        return self.try_take() or await self.wait(self.claim())

    def end(self) -> None:
        """End one's turn: it is the next one's."""
        if self._waiting is not None:
            following = self._pop()
            if following is not None:
                following.set_result(True)
                return
            self._waiting = None
        self._is_taken = False

    async def let_one(self) -> bool:
        """
        Give one's turn to the next one, who waits or comes first, and take it back right behind.

        Returns:
            Whether it is one's turn again; ``False`` if one was sent away.
        """
        mine: Place = asyncio.get_running_loop().create_future()
        following = self._pop()
        self._queue(mine, first=True)
        if following is None:
            self._is_taken = False
        else:
            following.set_result(True)
        try:
            return await mine
        except BaseException:
            self._give_up(mine)
            raise

    def dismiss(self, place: Place) -> None:
        """End the wait of ``place`` alone; nothing happens if it has the turn, or has given up."""
        if not place.done() and self._waiting:
            self._waiting.remove(place)
            place.set_result(False)

    def send_away(self, keep: Collection[Place] = ()) -> None:
        """End the wait of everybody but ``keep``; whose turn it is keeps it."""
        waiting = self._waiting or ()
        self._waiting = deque(place for place in waiting if place in keep) or None
        for place in waiting:
            if not place.done() and place not in keep:
                place.set_result(False)

    def _queue(self, place: Place, *, first: bool) -> None:
        if self._waiting is None:
            self._waiting = deque()
        if first:
            self._waiting.appendleft(place)
        else:
            self._waiting.append(place)

    def _pop(self) -> Place | None:
        """Take the first who still waits out of the queue."""
        while self._waiting:
            following = self._waiting.popleft()
            if not following.done():
                return following
        return None

    def _give_up(self, place: Place) -> None:
        if place.done() and not place.cancelled() and place.result():
            self.end()  # it was given the turn in the tick in which it was cancelled
        elif self._waiting and place in self._waiting:  # `end` may have passed it over since
            self._waiting.remove(place)
