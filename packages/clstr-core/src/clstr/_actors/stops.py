"""Users' work that nobody waits for: it may fail, hang or be cancelled; it is bounded, and logged."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection
from typing import Any

from clstr._rate_limited_log import RateLimitedLog

STOP_TIMEOUT = 10.0  # seconds for each part of a stop: what stores state should take far less


async def finish(
    work: Callable[[], object],
    what: str,
    log: RateLimitedLog,
    *,
    seconds: float = STOP_TIMEOUT,
    failed: Callable[[Exception], object] | None = None,
) -> bool:
    """
    Call ``work``, sync or async, for so many seconds at most, and tell whether it ended well in that time.

    What it raises is logged, a cancellation that it raised by itself included: only one of this task is passed on.
    ``failed``, if given, gets the error, which is a `TimeoutError` when the time was over.
    """
    try:
        async with asyncio.timeout(seconds):
            result = work()
            if inspect.isawaitable(result):
                await result
        return True
    except Exception as error:  # noqa: BLE001 -- user code: it is logged, and told
        text = "%s failed, or took longer than %g s"
        log.say(logging.ERROR, text, what, seconds, kind=(what, type(error)), error=error)
        if failed is not None:
            failed(error)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        log.say(logging.ERROR, "%s cancelled itself", what, kind=what, error=error)
    return False


async def cancel_all(tasks: Collection[asyncio.Task[Any]], what: str, logger: logging.Logger) -> None:
    """Cancel ``tasks`` and wait for their ends, for `STOP_TIMEOUT` at most; log how many ignore that."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    _, stubborn = await asyncio.wait(tasks, timeout=STOP_TIMEOUT)
    if stubborn:
        logger.error("%d %s ignore cancellation", len(stubborn), what)
