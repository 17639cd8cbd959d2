"""What the log says of notifies that failed."""

from __future__ import annotations

import logging
from collections.abc import Callable

QUIET_SECONDS = 1.0


class NotifyLog:
    """
    Logs that notifies failed, since nobody else hears of it (T12).

    At most one line a second, which counts the others: a node that refuses thousands must not be busy with saying so.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self._count = 0
        self._quiet_until = float("-inf")

    def failed(self, what: object, why: str) -> None:
        """Note that ``what`` failed."""
        self._count += 1
        now = self._clock()
        if now >= self._quiet_until:
            # As text: a log may be written later, and a message that has ended is forgotten.
            self._logger.warning("%d notifies failed since the last such line; now %s: %s", self._count, str(what), why)
            self._count = 0
            self._quiet_until = now + QUIET_SECONDS
