"""Middleware: functions around a handler, or around a client's sending."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from clstr._messages.envelope import Envelope
from clstr.abc import Handler

Middleware = Callable[[Envelope, Handler], Awaitable[bytes | None]]
"""
Gets an envelope and what comes next, and answers: usually with ``await next(envelope)``.

It may pass another envelope on, answer by itself, change the answer, or raise.
"""


def check_middleware(middleware: Iterable[Middleware]) -> tuple[Middleware, ...]:
    """Return ``middleware`` as a tuple; `TypeError` if one is not callable."""
    chosen = tuple(middleware)
    for each in chosen:
        if not callable(each):
            raise TypeError(f"middleware must be an async function of an envelope and the next handler, not {each!r}")
    return chosen


def wrap(handler: Handler, middleware: tuple[Middleware, ...]) -> Handler:
    """Return ``handler`` inside ``middleware``, the first of it outermost."""
    for each in reversed(middleware):
        handler = partial(_call, each, handler)
    return handler


async def _call(middleware: Middleware, following: Handler, envelope: Envelope) -> bytes | None:
    return await middleware(envelope, following)
