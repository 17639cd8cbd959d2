"""What a link has accepted and its socket has not sent: bounded, and watched until there is room again."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

# Seconds between two looks at a socket that was full. asyncio tells of its buffer only whoever made the protocol, which
# is the driver; and in this time a fast network sends less than what a budget of megabytes has left.
LOOK_INTERVAL = 0.005


class WriteBudget:
    """
    Bounds the bytes that one connection has to send.

    Requests may use all of it and answers a half, so that answers to slow receivers do not keep a handler from sending
    a request of its own. An answer that has no room is the engine's to keep: `Link.reply` returns ``False``.

    Args:
        on_room: Called when there is room for answers, after `has_room_for_answer` was ``False``. Usually
            `Sink.writable`.
        max_bytes: How many bytes may wait. An answer that is accepted below half of it may exceed that.

    Attributes:
        max_bytes: How many bytes may wait; a link may change it when a connection is made.
        queued_bytes: Bytes that the link has accepted in this tick. The link adds to it.
        unsent_bytes: Bytes that the socket had not sent when it was last asked.
    """

    def __init__(self, on_room: Callable[[], None], max_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.Context()  # not that of the handler whose answer found no room
        self._on_room = on_room
        self._measure: Callable[[], int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.max_bytes: int = max_bytes
        self.queued_bytes: int = 0
        self.unsent_bytes: int = 0

    def connected(self, measure: Callable[[], int]) -> None:
        """Count anew for another connection; ``measure`` returns the bytes that its socket has not sent."""
        self.disconnected()
        self._measure = measure

    def disconnected(self) -> None:
        """Stop watching: the link tells the engine when it is up again."""
        self._measure = None
        self.queued_bytes = self.unsent_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def written(self) -> None:
        """What was accepted in this tick was handed to the socket."""
        self.queued_bytes = 0
        self._look()

    def has_room_for_request(self, size: int) -> bool:
        """Tell whether a request of ``size`` bytes may be accepted."""
        return self._fits(self.max_bytes - size)

    def has_room_for_answer(self) -> bool:
        """Tell whether an answer may be accepted; if not, `on_room` is called later."""
        if self._fits(self.max_bytes // 2):
            return True
        self._watch()
        return False

    def _fits(self, most: int) -> bool:
        if self.queued_bytes + self.unsent_bytes <= most:
            return True
        self._look()  # the socket has sent something since the last write
        return self.queued_bytes + self.unsent_bytes <= most

    def _look(self) -> None:
        self.unsent_bytes = 0 if self._measure is None else self._measure()

    def _watch(self) -> None:
        if self._timer is None and self._measure is not None:
            self._timer = self._loop.call_later(LOOK_INTERVAL, self._check, context=self._context)

    def _check(self) -> None:
        self._timer = None
        if self._fits(self.max_bytes // 4):  # well below: the next answers are many, and each look costs
            self._on_room()
        else:
            self._watch()
