"""Who else gets the shards' messages: a JetStream stream, or a subscriber that is no node."""

from __future__ import annotations

import json
import logging

from clstr.spi import Buffer
from clstr_nats._subjects import Subjects

MAX_ACK_BYTES = 4096  # far more than an acknowledgement has: nothing larger is read
MAX_NAME = 64  # characters of a stream's name that are repeated


def describe_ack(body: Buffer, subjects: str) -> str:
    """Say which stream acknowledged a message to ``subjects``; empty if ``body`` is no acknowledgement."""
    if len(body) > MAX_ACK_BYTES:
        return ""
    try:
        ack = json.loads(bytes(body))
    except (ValueError, RecursionError):
        return ""
    if not isinstance(ack, dict) or not ("seq" in ack or "error" in ack):
        return ""
    stream = ack.get("stream")
    name = f"the JetStream stream {stream[:MAX_NAME]!r}" if isinstance(stream, str) and stream else "a JetStream stream"
    return f"{name} takes messages to {subjects}: exclude them from its subjects, or give clstr another prefix"


class Bystanders:
    """
    Finds out whether the server can tell that a shard has no owner: it cannot while somebody listens to every shard.

    A probe is an empty message to a subject like a shard's that nobody has: the server must refuse it. It does so
    before it answers a PING that was sent behind it.

    Args:
        subjects: This peer's.
        logger: Told what was found, when that changes.

    Attributes:
        found: What is known of who listens to every shard; empty is nothing.
        is_asking: Whether the last probe waits for its answer: a second one would be mistaken for it.
    """

    def __init__(self, subjects: Subjects, logger: logging.Logger) -> None:
        self._subjects = subjects
        self._logger = logger
        self._was_refused = False
        self._told = ""
        self.found: str = ""
        self.is_asking: bool = False

    def probe(self) -> bytes:
        """Return the command that asks; its refusal goes to `answered`, the fence behind it to `passed`."""
        self._was_refused = False
        self.is_asking = True
        return f"PUB {self._subjects.new_probe()} {self._subjects.probe_reply_to} 0\r\n\r\n".encode()

    def answered(self, body: Buffer, *, is_refusal: bool) -> None:
        """Something answered a probe: the server, or who listens."""
        if is_refusal:
            self._was_refused, self.found = True, ""
        else:
            self._find(describe_ack(body, self._subjects.every_shard) or self._somebody())

    def passed(self, *, was_denied: bool) -> None:
        """The server has acted on the last probe, or has denied the right to it, which says nothing of listeners."""
        if not (self._was_refused or was_denied or self.found):
            self._find(self._somebody())

    def _somebody(self) -> str:
        return (
            f"somebody else receives messages to {self._subjects.every_shard} (a subscription to it or to '>', a "
            "stream, a gateway), so the server cannot tell that a shard has no owner: requests and notifies to such a "
            "shard end by their timeout"
        )

    def _find(self, found: str) -> None:
        self.found = found
        if found != self._told:
            self._told = found
            self._logger.warning("%s", found)
