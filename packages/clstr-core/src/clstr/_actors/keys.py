"""The key of a message, for handlers that keep something for each."""

from __future__ import annotations

from clstr._context import refuse
from clstr._messages.envelope import Envelope
from clstr.errors import DrainingError, KeyRequiredError, MissingKeyHeaderError


def required_key(envelope: Envelope, *, is_closed: bool) -> str:
    """Return the key of ``envelope``; refuse a message that has none, and every one once the handler is closed."""
    if is_closed:
        raise refuse(DrainingError(envelope.shard))
    key = envelope.key
    if key is None:
        raise refuse(MissingKeyHeaderError())
    if not key:
        raise refuse(KeyRequiredError())
    return key
