"""How many actors may live at a time."""

from __future__ import annotations

import asyncio
from collections import deque

from clstr._context import Current, current


class Room:
    """
    Counts what lives, between its start and the end of its stop.

    Args:
        size: How many may live; ``None`` is no limit.
    """

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def taken(self) -> int:
        """How many live."""
        return self._taken

    def try_enter(self) -> bool:
        """Take a place if one is free."""
        if self._size is not None and self._taken >= self._size:
            return False
        self._taken += 1
        return True

    async def enter(self) -> None:
        """Take a place, waiting for one if need be; the message that is being handled lends its slot meanwhile."""
        if self.try_enter():
            return
        inside = current()
        if inside is not None:
            inside.park()  # what stops may need the slot
        try:
            await self._wait(inside)
        finally:
            if inside is not None:
                inside.unpark()

    async def _wait(self, inside: Current | None) -> None:
        """Wait for the place of one that leaves, in order of arrival."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
            if inside is not None:
                inside.check_time()
        except BaseException:
            if place.done() and not place.cancelled():
                self.leave()  # it was given the place, and was cancelled in that tick, or its time is over
            raise

    def leave(self) -> None:
        """Give a place back: it is the next one's."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._taken -= 1
