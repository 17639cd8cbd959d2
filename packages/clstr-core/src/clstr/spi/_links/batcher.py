"""Coalesces what one tick of the loop writes to one destination."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MANY = 64  # items


class Batcher(Generic[T]):
    """
    Collects items and writes them together at the end of the tick: one write for all, and no delay.

    Args:
        loop: The loop whose ticks count.
        write: Gets the items in order. It runs as a loop callback, or inside of `stream`, and must not raise.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, write: Callable[[list[T]], None]) -> None:
        self._loop = loop
        self._context = contextvars.Context()  # not that of the first caller of a tick
        self._write = write
        self._items: list[T] = []

    def add(self, item: T) -> None:
        """Write ``item`` with the others of this tick."""
        if not self._items:
            self._loop.call_soon(self.flush, context=self._context)
        self._items.append(item)

    def stream(self, item: T) -> None:
        """
        Write ``item`` with the others of this tick, and these now if they are many.

        So the other side works on the first while more are made here: with many callers both would wait in turn. Not
        for a ``write`` that hands the items to somebody in this process, who would run inside of this call.
        """
        if not self._items:
            self._loop.call_soon(self.flush, context=self._context)
        self._items.append(item)
        if len(self._items) >= MANY:
            self.flush()

    def flush(self) -> None:
        """Write what is there now."""
        if self._items:
            items, self._items = self._items, []
            self._write(items)
