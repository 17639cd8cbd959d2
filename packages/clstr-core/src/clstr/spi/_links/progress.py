"""Tells a slow connection from a dead one: bytes that move prove life, silence alone proves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

LOOKS = 3  # without movement, until a connection counts as dead


class ProgressCheck:
    """
    Counts how often in a row somebody looked and nothing had moved.

    It counts looks, not seconds. After the event loop was blocked, the first look comes before the loop has read what
    arrived meanwhile; the next ones do not::

        check = ProgressCheck(connection.bytes_moved)
        while check.look(connection.bytes_moved):  # once per heartbeat, while an answer is outstanding
            ...

    Args:
        progress: A number that changes whenever bytes move: those read, plus those that the socket has taken. Of the
            bytes written, count only those up to the question that is outstanding. What is written later proves
            nothing: the operating system takes megabytes for a peer that reads none of them.
        looks: Looks in a row without movement after which the connection counts as dead: 3 by default.
    """

    def __init__(self, progress: int, *, looks: int = LOOKS) -> None:
        self._progress = progress
        self._looks = looks
        self._still = 0

    def look(self, progress: int) -> bool:
        """Return whether the connection still counts as alive, ``progress`` being the number of bytes moved."""
        if progress != self._progress:
            self._progress, self._still = progress, 0
        else:
            self._still += 1
        return self._still < self._looks


async def answered_while_moving(
    answer: asyncio.Future[Any],
    lost: asyncio.Future[Exception],
    *,
    progress: Callable[[], int],
    patience: float,
) -> bool:
    """
    Wait for ``answer``, for as long as bytes move; return whether it came.

    An answer that waits behind megabytes on a slow connection is given the time that these need. One of a mute peer is
    given up about ``patience`` seconds after the last byte moved.

    Args:
        answer: Done when the answer has arrived.
        lost: Done when the connection is lost, which ends the waiting.
        progress: See `ProgressCheck`; called a few times per ``patience``.
        patience: Seconds without movement after which a connection counts as dead.
    """
    await asyncio.sleep(0)  # uvloop writes at the end of the tick: that is no movement yet
    check = ProgressCheck(progress())
    while not (answer.done() or lost.done()):
        await asyncio.wait((answer, lost), timeout=patience / LOOKS, return_when=asyncio.FIRST_COMPLETED)
        if not check.look(progress()):
            break
    return answer.done()
