"""What the log says of spawned tasks that were cancelled because their actor stopped."""

from __future__ import annotations

import asyncio
import logging

QUIET_SECONDS = 1.0


class TaskLog:
    """
    Logs that tasks were cut off: nothing else tells that their work is not done.

    At most one line a second, which counts the others: thousands of actors may stop together.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._count = 0
        self._quiet_until = float("-inf")

    def cancelled(self, count: int, kind: str, why: str) -> None:
        """Note that ``count`` tasks of an actor of ``kind`` were cancelled, and why it stopped."""
        if not count:
            return
        self._count += count
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            text = "%d spawned tasks were cancelled since the last such line, now those of a %s, which stopped: %s"
            self._logger.warning(text, self._count, kind, why)
            self._count = 0
            self._quiet_until = now + QUIET_SECONDS
