"""Shards on their way out of a node: what has begun is finished, even if its caller gives up."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from typing import TypeVar

from clstr._rate_limited_log import RateLimitedLog
from clstr._tasks import required_task

T = TypeVar("T")


class Releases:
    """
    Releases under way.

    A release that stopped half-way would leave state behind that is out of date when the shard comes back. So each runs
    in a task of its own, which a cancelled caller does not end.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._log = RateLimitedLog(logger)
        self._shards: dict[asyncio.Task[object], frozenset[int]] = {}

    async def run(self, shards: frozenset[int], work: Coroutine[object, object, T]) -> T:
        """Run ``work``, which releases ``shards``, and return its result. If this is cancelled, it goes on."""
        task = required_task(work, contextvars.copy_context(), self._log)
        self._shards[task] = shards
        task.add_done_callback(self._shards.pop)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._log_failure)
            raise

    async def wait_for(self, shards: frozenset[int]) -> None:
        """Wait until no release of one of ``shards`` is under way. What they raise is their callers' affair."""
        while concerned := [task for task, each in self._shards.items() if each & shards]:
            await asyncio.wait(concerned)

    async def wait_for_all(self) -> None:
        """Wait until no release is under way."""
        while self._shards:
            await asyncio.wait(list(self._shards))

    def cancel(self) -> None:
        """Cancel what is under way."""
        for task in list(self._shards):
            task.cancel()

    def _log_failure(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._logger.error("a release whose caller was cancelled failed", exc_info=task.exception())
