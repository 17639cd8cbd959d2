"""What arrives at the address of a reply and is none: a JetStream stream's acknowledgement, a stranger's service."""

from __future__ import annotations

import logging
from collections.abc import Callable

from clstr._messages.wire import Buffer
from clstr._rate_limited_log import RateLimitedLog
from clstr.spi._counters import Counters
from clstr.spi._link import Link
from clstr.spi._pending import Pending

QUIET_SECONDS = 10.0  # between two log lines: a stream answers every request
UNKNOWN = "something that is no clstr node answered instead: who else subscribes to the shards' subjects or channels?"


class ForeignReplies:
    """
    Counts them, logs at most one line in ten seconds, and notes at the request what its timeout will say.

    They do not end a request: the owner of the shard may still answer.
    """

    def __init__(self, link: Link, counters: Counters, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._link = link
        self._counters = counters
        self._logger = logger
        self._log = RateLimitedLog(logger, seconds=QUIET_SECONDS, clock=clock)

    def note(self, pending: Pending, body: Buffer, why: Exception) -> None:
        """Note that ``body`` arrived for ``pending`` and is no reply, and ``why``."""
        self._counters.foreign_replies += 1
        self._logger.debug("not a reply: %s", why)
        pending.foreign = self._describe(body)
        self._log.say(
            logging.WARNING, "an answer to a request for shard %d was no reply: %s", pending.shard, pending.foreign
        )

    def _describe(self, body: Buffer) -> str:
        try:
            return self._link.describe_foreign(body) or UNKNOWN
        except Exception as error:  # noqa: BLE001 -- a defect of the link must not cost the reader
            self._log.say(logging.ERROR, "the link failed to describe a foreign answer", kind=type(error), error=error)
            return UNKNOWN
