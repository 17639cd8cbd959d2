"""Several ways to the same end, started one after the other: the first that succeeds wins."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def race(
    attempts: Iterable[Callable[[], Coroutine[Any, Any, T]]],
    *,
    delay: float,
    discard: Callable[[T], object] | None = None,
) -> T:
    """
    Return the result of the first attempt that succeeds.

    The next attempt starts ``delay`` seconds after the last one, or as soon as one fails. A mute server thus costs
    ``delay`` seconds and not the whole time, and a slow one may go on while others are tried.

    Args:
        attempts: At least one. Each must release what it holds when it fails or is cancelled.
        delay: Seconds.
        discard: Releases the result of an attempt that succeeded too late to be returned; ``None`` if there is nothing
            to release. Must not raise.

    Raises:
        ExceptionGroup: Every attempt failed; it holds their errors, in the order in which they failed.
        ValueError: There is no attempt.
    """
    waiting = deque(attempts)
    if not waiting:
        raise ValueError("a race needs at least one attempt")
    running: set[asyncio.Task[T]] = set()
    failures: list[Exception] = []
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(waiting.popleft()()))
            timeout = delay if waiting else None
            done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                running.discard(task)
                if (failure := _failure(task)) is None:
                    running.update(done)  # a second winner of the same moment is discarded with the others
                    running.discard(task)
                    return task.result()
                failures.append(failure)
    finally:
        await _end(running, discard)
    raise ExceptionGroup("no attempt succeeded", failures)


def _failure(task: asyncio.Task[Any]) -> Exception | None:
    if task.cancelled():  # not by us: a driver cancelled something of its own
        return ConnectionAbortedError("the attempt was cancelled from within")
    error = task.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error


async def _end(tasks: set[asyncio.Task[T]], discard: Callable[[T], object] | None) -> None:
    for task in tasks:
        task.cancel()
        task.add_done_callback(lambda ended: _discard(ended, discard))  # also if we are cancelled before they end
    if tasks:
        await asyncio.wait(tasks)


def _discard(task: asyncio.Task[T], discard: Callable[[T], object] | None) -> None:
    if not task.cancelled() and task.exception() is None and discard is not None:
        discard(task.result())
