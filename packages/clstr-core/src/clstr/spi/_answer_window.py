"""How many bytes of answers one transport asks for at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clstr._messages.wire import ReplyFrame
from clstr.spi._held_answers import HELD

MIN_ROOM = 1024  # what each request may bring back whatever is free: a round trip more would cost more than that
UNKNOWN_ROOM = 64 * 1024  # for a message type whose answers are not known yet
MAX_TYPES = 1024  # types whose answers are remembered: names may come from anywhere


@dataclass(frozen=True, slots=True)
class Held:
    """
    Not an outcome yet: the answer is at the node.

    Attributes:
        size: Its data bytes.
        at: The shard to ask for it at.
        ticket: What to ask for.
    """

    size: int
    at: int
    ticket: str


def read_held(frame: ReplyFrame) -> Held | None:
    """Return where the answer is if ``frame`` says that a node holds it, and says so in full."""
    if frame.code != HELD:
        return None
    size, at, ticket = (frame.details.get(name) for name in ("size", "at", "ticket"))
    if type(size) is not int or type(at) is not int or type(ticket) is not str:
        return None
    return Held(size, at, ticket) if size > 0 and 0 <= at < 2**32 else None


class AnswerWindow:
    """
    Shares a number of bytes among the answers that are under way.

    A request states the room that it has for its answer: what answers of its type took lately. All of these together
    have half of the window, so that slow handlers leave the other half to the answers that nodes hold, which take
    turns. An answer that is larger than what is free is asked for when no other one is.

    Args:
        max_bytes: The window, in data bytes.

    Attributes:
        used_bytes: What requests and held answers have of it.
        small: The types whose answers need no more than ``MIN_ROOM``.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sizes: dict[str, int] = {}
        self._reserved = 0
        self._pulled = 0
        self._waiting: dict[asyncio.Future[None], int] = {}
        self.small: set[str] = set()

    @property
    def used_bytes(self) -> int:
        """The data bytes that are promised to answers."""
        return self._reserved + self._pulled

    def reserve(self, message_type: str) -> int:
        """Return the data bytes that the answer to a request may have; above ``MIN_ROOM`` it needs its `release`."""
        room = self._sizes.get(message_type, UNKNOWN_ROOM)
        if room <= MIN_ROOM:
            return MIN_ROOM
        free = min(self._max_bytes // 2 - self._reserved, self._max_bytes - self.used_bytes)
        room = MIN_ROOM if self._waiting else min(room, free)
        if room <= MIN_ROOM:
            return MIN_ROOM
        self._reserved += room
        return room

    def release(self, room: int) -> None:
        """Give back what `reserve` returned."""
        if room > MIN_ROOM:
            self._reserved -= room
            self._grant()

    def learn(self, message_type: str, size: int) -> None:
        """Remember that an answer had ``size`` data bytes; larger ones before it are forgotten step by step."""
        known = self._sizes.get(message_type, 0)
        if not known and len(self._sizes) >= MAX_TYPES:
            del self._sizes[oldest := next(iter(self._sizes))]
            self.small.discard(oldest)
        self._sizes[message_type] = room = max(size, known - known // 8, 1)
        if room <= MIN_ROOM:
            self.small.add(message_type)
        else:
            self.small.discard(message_type)

    @asynccontextmanager
    async def turn(self, size: int, deadline: float) -> AsyncIterator[None]:
        """
        Have ``size`` bytes of the window in the body of ``async with``, in the order of the calls.

        Raises:
            TimeoutError: ``deadline``, in loop time, came first.
        """
        await self._take(size, deadline)
        try:
            yield
        finally:
            self._give_back(size)

    async def _take(self, size: int, deadline: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = size
        self._grant()
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException:
            if self._waiting.pop(turn, None) is None:  # granted in the same tick
                self._give_back(size)
            else:
                self._grant()
            raise

    def _give_back(self, size: int) -> None:
        self._pulled -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            turn, size = next(iter(self._waiting.items()))
            if self._pulled and self.used_bytes + size > self._max_bytes:
                return
            del self._waiting[turn]
            self._pulled += size
            if not turn.done():
                turn.set_result(None)
