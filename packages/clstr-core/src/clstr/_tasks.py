"""Tasks for the work of a key, made by whatever task factory the program has set."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from clstr._rate_limited_log import RateLimitedLog

T = TypeVar("T")


def new_task(work: Coroutine[Any, Any, T], context: contextvars.Context, *, eager: bool = False) -> asyncio.Task[T]:
    """
    Return a task that runs ``work`` in ``context``. If the program's task factory raises, so does this.

    With ``eager`` the work begins inside of this call where that is possible.
    """
    loop = asyncio.get_running_loop()
    if eager and sys.version_info >= (3, 12) and loop.get_task_factory() is None:
        return asyncio.Task(work, loop=loop, context=context, eager_start=True)
    try:
        return loop.create_task(work, context=context)
    except BaseException:
        work.close()  # it would be reported as never awaited
        raise


def required_task(work: Coroutine[Any, Any, T], context: contextvars.Context, log: RateLimitedLog) -> asyncio.Task[T]:
    """Return a task that runs ``work`` in ``context`` even if the program's task factory raises, which is logged."""
    loop = asyncio.get_running_loop()
    try:
        return loop.create_task(work, context=context)
    except Exception as error:  # noqa: BLE001 -- user code
        text = "the task factory of the event loop failed: a plain task is used"
        log.say(logging.ERROR, text, kind=type(error), error=error)
        return asyncio.Task(work, loop=loop, context=context)
