"""What became of a call."""

from __future__ import annotations

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
