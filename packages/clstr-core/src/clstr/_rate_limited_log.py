"""One line of log for a storm, not one for each message of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

QUIET_SECONDS = 1.0  # between two lines of one kind
MAX_KINDS = 100  # that are told apart; what is beyond them shares one line

_OTHER = object()


@dataclass(slots=True)
class _Kind:
    said_at: float = float("-inf")
    unsaid: int = 0


class RateLimitedLog:
    """
    Writes at most one line of a text and a kind in ``seconds``, and counts the others.

    For what a stranger or overload can cause with each message: a peer that refuses thousands must not be busy with
    saying so. A line says how many there were since the last one that are not in the log. At the level DEBUG the logger
    gets these too.

    Args:
        logger: Where the lines go.
        seconds: Seconds between two lines of one kind, 1 by default.
        clock: Tells the time in seconds; by default that of the running loop.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        seconds: float = QUIET_SECONDS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._logger = logger
        self._seconds = seconds
        self._clock = clock or _loop_time
        self._kinds: dict[Hashable, _Kind] = {}

    def say(
        self,
        level: int,
        text: str,
        *args: object,
        kind: object = None,
        error: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """
        Write a line, or count it.

        Args:
            level: That of the line, one of the constants of `logging`.
            text: As for `logging.Logger.log`.
            args: As for `logging.Logger.log`. They become text at once, and only if a line is written.
            kind: What has lines of its own, beside the text; hashable. Not what a stranger chooses, such as a message's
                type.
            error: What the line shows the traceback of.
            extra: Attributes of the record.
        """
        entry, now = self._entry((text, kind)), self._clock()
        if 0 <= now - entry.said_at < self._seconds:  # below 0 this is another loop, with another clock
            entry.unsaid += 1
            level = logging.DEBUG
        else:
            if entry.unsaid:
                text, args = f"{text} (%d more since the last such line)", (*args, entry.unsaid)
            entry.said_at, entry.unsaid = now, 0
        if self._logger.isEnabledFor(level):
            self._logger.log(level, text, *map(_as_text, args), exc_info=error, extra=extra, stacklevel=2)

    def _entry(self, kind: Hashable) -> _Kind:
        entry = self._kinds.get(kind)
        if entry is None:
            entry = self._kinds.setdefault(kind if len(self._kinds) < MAX_KINDS else _OTHER, _Kind())
        return entry


def _as_text(arg: object) -> object:
    """Keep no objects in records: a log may be written later, and a message that has ended is forgotten."""
    return arg if isinstance(arg, int | float) else str(arg)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
