"""How a message is sent: its headers, TTL and timeout, with defaults from the client down to the call."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from clstr._limits import MAX_TTL_MS, check_seconds
from clstr._messages.envelope import KEY_HEADER, Envelope
from clstr.errors import ReservedHeaderError


class SendOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    The options of a message. Go: ``EnvelopeOption``.

    Attributes:
        headers: Checked, and never changed after that.
        ttl_ms: Milliseconds; 0 is no limit.
        timeout: Seconds.
    """

    headers: dict[str, str]
    ttl_ms: int
    timeout: float

    @classmethod
    def of(cls, headers: Mapping[str, str] | None, ttl: float | None, timeout: float) -> SendOptions:
        """Check the options that a client starts with; see `override`."""
        return cls(headers={}, ttl_ms=0, timeout=check_seconds("timeout", timeout)).override(headers, ttl, None)

    def override(self, headers: Mapping[str, str] | None, ttl: float | None, timeout: float | None) -> SendOptions:
        """
        Return these options with what is not ``None`` in place of theirs; headers are added to theirs.

        Raises:
            InvalidEnvelopeError: A header's name or value is malformed or too large, or there are too many.
            ReservedHeaderError: A header's name begins with ``x-clstr-``, in any case.
            TypeError: An argument has the wrong type.
            ValueError: ``ttl`` or ``timeout`` is not finite and above 0, or ``ttl`` is longer than a year.
        """
        if headers is None and ttl is None and timeout is None:
            return self
        return SendOptions(
            headers=self.headers if headers is None else {**self.headers, **_checked_headers(headers)},
            ttl_ms=self.ttl_ms if ttl is None else _ttl_ms(ttl),
            timeout=self.timeout if timeout is None else check_seconds("timeout", timeout),
        )


def _ttl_ms(ttl: float) -> int:
    """Return ``ttl`` in milliseconds, rounded up: a short one must not become none."""
    milliseconds = check_seconds("ttl", ttl) * 1000
    if milliseconds > MAX_TTL_MS:
        raise ValueError(f"ttl must be at most {MAX_TTL_MS // 1000} seconds, a year, not {ttl!r}")
    return math.ceil(milliseconds)


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of names to values, not {type(headers).__name__}")
    Envelope(shard=0, type="", headers=headers).validate()
    if KEY_HEADER in headers:
        raise ReservedHeaderError(KEY_HEADER)
    return headers
