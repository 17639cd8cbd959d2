"""What became of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


async def failure(call: Awaitable[object], kind: type[E]) -> E:
    """Await ``call`` and return the error of exactly the type ``kind`` that it must raise."""
    try:
        result = await call
    except kind as error:
        assert type(error) is kind, f"raised {type(error).__name__}, not {kind.__name__}: {error}"
        return error
    raise AssertionError(f"returned {result!r}, but {kind.__name__} was expected")


async def first_done(requests: list[asyncio.Task[bytes]], count: int) -> list[asyncio.Task[bytes]]:
    """Wait until ``count`` of ``requests`` have ended, and return those."""
    while sum(request.done() for request in requests) < count:
        await asyncio.wait([request for request in requests if not request.done()], return_when="FIRST_COMPLETED")
    return [request for request in requests if request.done()]
