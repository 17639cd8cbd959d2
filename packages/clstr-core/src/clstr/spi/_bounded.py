"""Waiting for a link's coroutine without trusting it to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_unfinished: set[asyncio.Future[None]] = set()


async def bounded(work: Coroutine[Any, Any, None], seconds: float, what: str, logger: logging.Logger) -> None:
    """
    Run ``work`` for at most ``seconds``; then cancel it and go on, whether it obeys or not.

    A failure is logged, not raised: this is for closing, where the next step must come. If the caller is cancelled the
    work goes on by itself.
    """
    task = asyncio.ensure_future(work)
    _unfinished.add(task)  # the loop alone would let it be collected
    task.add_done_callback(_forget)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        logger.warning("%s did not end within %g s", what, seconds)
    elif not task.cancelled() and task.exception() is not None:
        logger.warning("%s failed", what, exc_info=task.exception())


def _forget(task: asyncio.Future[None]) -> None:
    _unfinished.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved: a failure after its time is over is no news
