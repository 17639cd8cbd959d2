"""Who else gets the shards' messages: a JetStream stream, or a subscriber that is no node."""

from __future__ import annotations

import json

from clstr.spi import Buffer

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
