"""Coalesces what one tick of the loop writes to one destination."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """
    Collects items and writes them together at the end of the tick: one write for all, and no delay.

    Args:
        loop: The loop whose ticks count.
        write: Gets the items in order. It runs as a loop callback and must not raise.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, write: Callable[[list[T]], None]) -> None:
        self._loop = loop
        self._context = contextvars.Context()  # not that of the first caller of a tick
        self._write = write
        self._items: list[T] = []

    def add(self, *items: T) -> None:
        """Write ``items`` with the others of this tick."""
        if not self._items:
            self._loop.call_soon(self.flush, context=self._context)
        self._items += items

    def flush(self) -> None:
        """Write what is there now."""
        if self._items:
            items, self._items = self._items, []
            self._write(items)
