"""Whether the link is up, and who waits for it."""

from __future__ import annotations

import asyncio
import logging

from clstr.errors import TransportClosedError, TransportUnavailableError
from clstr.spi._counters import Counters


class LinkState:
    """Up or down for a while; lost or closed for good."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, reconnect_wait: float, logger: logging.Logger, counters: Counters
    ) -> None:
        self._loop = loop
        self._counters = counters
        self._reconnect_wait = reconnect_wait
        self._logger = logger
        self._decided = asyncio.Event()  # set while nobody needs to wait: up, lost or closed
        self._ended = asyncio.Event()
        self._news = asyncio.Event()  # set, and replaced, with each change
        self._cause: Exception | None = None
        self._is_lost = False
        self._is_closed = False
        self.is_up: bool = False

    def opened(self) -> None:
        """The link has been opened; it is up unless it went down since."""
        if self._cause is None:
            self.up()

    def up(self) -> None:
        """The link is usable, or reaches more than before."""
        self._tell()
        if self._is_lost or self._is_closed or self.is_up:
            return
        if self._cause is not None:
            self._logger.info("the link is up again")
            self._counters.reconnects += 1
        self.is_up = True
        self._decided.set()

    def down(self, error: Exception, *, fatal: bool) -> None:
        """The link is gone; ``fatal``: for good."""
        if self._is_closed:
            return
        self._tell()
        self._logger.warning("the link is %s: %s", "lost for good" if fatal else "down", error)
        self.is_up = False
        self._cause = error
        self._is_lost = self._is_lost or fatal
        if self._is_lost:
            self._decided.set()
            self._ended.set()
        else:
            self._decided.clear()

    def end(self) -> None:
        """Closing has begun; the link stays usable for what is under way."""
        self._ended.set()

    def close(self) -> None:
        """The link is closed."""
        self._tell()
        self.is_up = False
        self._is_closed = True
        self._decided.set()

    async def wait_ended(self) -> None:
        """Return when closing has begun; raise `TransportUnavailableError` if the link is lost for good."""
        await self._ended.wait()
        if self._is_lost:
            raise self._error()

    def give_up(self) -> float:
        """Return when a request that begins to wait for the link now waits no longer: loop time."""
        return self._loop.time() + self._reconnect_wait

    async def wait_up(self, deadline: float, give_up: float | None = None) -> bool:
        """
        Wait until the link is up; return ``False`` if ``deadline``, in loop time, came first.

        Args:
            deadline: When the caller's time is over.
            give_up: What `give_up` returned when the waiting began, if not now.

        Raises:
            TransportUnavailableError: It is not up after ``reconnect_wait`` seconds, or is lost for good.
            TransportClosedError: It was closed meanwhile.
        """
        give_up = self.give_up() if give_up is None else give_up
        try:
            async with asyncio.timeout_at(min(deadline, give_up)):
                while not self._decided.is_set():
                    await self._decided.wait()
        except TimeoutError:
            if deadline < give_up:
                return False
        if not self.is_up:
            raise self._error()
        return True

    async def wait_news(self, until: float) -> bool:
        """Wait until the link is up, down, closed, or reaches more; return ``False`` if ``until`` came first."""
        news = self._news
        try:
            async with asyncio.timeout_at(until):
                await news.wait()
        except TimeoutError:
            return news.is_set()
        return True

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _error(self) -> TransportUnavailableError | TransportClosedError:
        if self._is_closed and not self._is_lost:
            return TransportClosedError()
        fate = "lost for good, open a new transport" if self._is_lost else "down"
        error = TransportUnavailableError(f"the link is {fate}: {self._cause}")
        error.__cause__ = self._cause
        return error
