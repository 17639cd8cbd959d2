"""The keys that nobody uses now: which has been idle for longest, and which for long enough."""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Callable, Iterator


class IdleKeys:
    """
    Keys in the order of their last use.

    Args:
        idle_after: Seconds after which a key is given up; ``None`` is never.
        give_up: Gets each such key, which is not idle any more then.
        may_give_up: Tells whether one more key may be given up now; if not, `resume` goes on.
    """

    def __init__(
        self,
        idle_after: float | None,
        give_up: Callable[[str], object],
        may_give_up: Callable[[], bool] = lambda: True,
    ) -> None:
        self.idle_after: float | None = idle_after
        self._give_up = give_up
        self._may_give_up = may_give_up
        self._is_held_up = False
        # Loop time, in order. Not a dict: a dict finds its first item by stepping over those that were removed.
        self._since: OrderedDict[str, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None  # one for all keys
        self._clock: Callable[[], float] = float  # of the timer's loop; without one the times are of no meaning

    def __len__(self) -> int:
        return len(self._since)

    def __iter__(self) -> Iterator[str]:
        return iter(self._since)

    def __contains__(self, key: str) -> bool:
        return key in self._since

    def oldest(self) -> str | None:
        """Return the key that has been idle for longest, or ``None`` if none is."""
        return next(iter(self._since), None)

    def add(self, key: str) -> None:
        """Note that ``key`` is idle from now on."""
        if self._timer is None and self.idle_after is not None:
            self._clock = asyncio.get_running_loop().time
            self._watch(self._clock() + self.idle_after, self.idle_after)
        self._since[key] = self._clock()

    def use(self, key: str) -> None:
        """Note that ``key`` is used; nothing happens if it is not idle. Whoever used it calls `add` or `remove`."""
        self._since.pop(key, None)  # and the timer goes on: it is cheaper than another one when the key is idle again

    def remove(self, key: str) -> None:
        """Note that ``key`` is given up; nothing happens if it is not idle."""
        self._since.pop(key, None)
        if not self._since:
            self._rest()

    def clear(self) -> None:
        """Forget all keys."""
        self._since.clear()
        self._rest()

    def _watch(self, due: float, idle_after: float) -> None:
        """Look again when the oldest has been idle for long enough."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(due, self._look, idle_after, context=contextvars.Context())

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resume(self) -> None:
        """Give up the keys that are due and could not be given up in their time."""
        if self._is_held_up and self.idle_after is not None:
            self._rest()
            self._look(self.idle_after)

    def _look(self, idle_after: float) -> None:
        self._timer = None
        self._is_held_up = False
        # Timers run early by up to the clock's resolution.
        until = self._clock() - idle_after + 0.001
        while (key := self.oldest()) is not None and self._since[key] <= until:
            if not self._may_give_up():
                self._is_held_up = True
                return
            self.remove(key)
            self._give_up(key)
        if key is not None and self._timer is None:
            self._watch(self._since[key] + idle_after, idle_after)
