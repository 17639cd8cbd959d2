"""The envelope: one message, as applications and handlers see it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from clstr._limits import MAX_HEADER_BYTES, MAX_HEADERS, MAX_TTL_MS, MAX_TYPE_CHARACTERS
from clstr.errors import InvalidEnvelopeError, ReservedHeaderError

KEY_HEADER = "x-clstr-key"
RESERVED_PREFIX = "x-clstr-"
MAX_SHARD = 2**32 - 1
MAX_TIME_MS = 2**63 - 1
_NO_HEADERS: dict[str, str] = {}
_SMALL_KEY = 1024  # characters: with up to 4 bytes for each, certainly within MAX_HEADER_BYTES

# C0 and C1 controls, DEL, and lone surrogates (which have no UTF-8).
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def has_control_characters(text: str) -> bool:
    """Tell whether ``text`` holds a control character or a lone surrogate."""
    return not text.isprintable() and _CONTROLS.search(text) is not None


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """
    One message for one shard.

    Attributes:
        shard: The target, ``0 <= shard < num_shards``.
        type: The message type's name, at most 256 characters.
        data: The payload.
        headers: Text by name, copied in; at most 64 headers and 8 KiB.
        ttl_ms: Milliseconds from ``created_at_ms`` in which a node may start and run the message; 0 is no limit.
        created_at_ms: Wall clock, milliseconds since the epoch, of *this* process: when the sender made the envelope,
            or when the receiver read it. Clocks of two machines are never compared. 0 is not stamped.

    Raises:
        InvalidEnvelopeError: ``headers`` is no mapping. `validate` checks the rest.
    """

    shard: int
    type: str
    data: bytes = b""
    headers: Mapping[str, str] = _NO_HEADERS
    ttl_ms: int = 0
    created_at_ms: int = 0

    def __post_init__(self) -> None:
        headers = self.headers
        if type(headers) is not dict and not isinstance(headers, Mapping):  # the first test is the cheap one
            raise InvalidEnvelopeError("headers", f"must be a mapping of str to str, not {type(headers).__name__}")
        if headers:
            force_setattr(self, "headers", dict(headers))

    def get_header(self, name: str) -> str | None:
        """Return the header called ``name``, or ``None``."""
        return self.headers.get(name)

    @property
    def key(self) -> str | None:
        """The key that the message was routed by, or ``None`` if it was sent by shard."""
        return self.headers.get(KEY_HEADER)

    def ttl(self, now_ms: int | None = None) -> float | None:
        """
        Return the seconds of TTL that are left, at least 0, or ``None`` if there is no TTL.

        Args:
            now_ms: Wall clock, milliseconds since the epoch, of this process; ``None`` is now.
        """
        if not self.ttl_ms:
            return None
        if not self.created_at_ms:
            return self.ttl_ms / 1000
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        return max(0, self.created_at_ms + self.ttl_ms - now_ms) / 1000

    def expired(self, now_ms: int | None = None) -> bool:
        """
        Tell whether the TTL has run out.

        Args:
            now_ms: As in `ttl`: milliseconds, and ``None`` is now.
        """
        return self.ttl(now_ms) == 0

    def validate(self) -> None:
        """
        Check every field.

        Raises:
            InvalidEnvelopeError: A field has the wrong type, is out of its bounds, or holds control characters.
            ReservedHeaderError: A header name begins with ``x-clstr-``, and is not exactly ``x-clstr-key``.
        """
        # This runs twice for each message, so what is certainly right is not looked at by a function of its own.
        if type(self.shard) is not int or not 0 <= self.shard <= MAX_SHARD:
            raise _bad_integer("shard", self.shard, MAX_SHARD)
        name = self.type
        if type(name) is not str or len(name) > MAX_TYPE_CHARACTERS or not name.isprintable():
            _check_text("type", name, MAX_TYPE_CHARACTERS)
        if type(self.data) is not bytes:
            raise InvalidEnvelopeError("data", f"must be bytes, not {type(self.data).__name__}")
        if type(self.ttl_ms) is not int or not 0 <= self.ttl_ms <= MAX_TTL_MS:
            raise _bad_integer("ttl_ms", self.ttl_ms, MAX_TTL_MS)
        if type(self.created_at_ms) is not int or not 0 <= self.created_at_ms <= MAX_TIME_MS:
            raise _bad_integer("created_at_ms", self.created_at_ms, MAX_TIME_MS)
        if self.headers:
            _check_headers(self.headers)


def _bad_integer(field: str, value: Any, maximum: int) -> InvalidEnvelopeError:
    if type(value) is not int:
        return InvalidEnvelopeError(field, f"must be an int, not {value!r}")
    return InvalidEnvelopeError(field, f"must be between 0 and {maximum}, not {value}")


def _check_text(field: str, value: Any, max_characters: int) -> None:
    if not isinstance(value, str):
        raise InvalidEnvelopeError(field, f"must be a str, not {type(value).__name__}")
    if len(value) > max_characters:
        raise InvalidEnvelopeError(field, f"has {len(value)} characters, at most {max_characters} are allowed")
    if has_control_characters(value):
        raise InvalidEnvelopeError(field, f"{value!r} holds control characters")


def _check_headers(headers: Mapping[str, str]) -> None:
    """Check all names and values as one text: this runs twice for each message."""
    if len(headers) == 1:  # most messages have their key and nothing else
        key = headers.get(KEY_HEADER)
        if type(key) is str and len(key) <= _SMALL_KEY and key.isprintable():
            return
    if len(headers) > MAX_HEADERS:
        raise InvalidEnvelopeError("headers", f"are {len(headers)}, at most {MAX_HEADERS} are allowed")
    try:
        text = "".join((*headers, *headers.values()))
    except TypeError:
        raise InvalidEnvelopeError("headers", "must map str to str") from None
    if not text.isprintable() and has_control_characters(text):  # nearly all are printable
        name = next(name for name, value in headers.items() if has_control_characters(name + value))
        # Not the value: those are never logged.
        raise InvalidEnvelopeError("headers", f"hold control characters in {name!r} or its value: encode or omit them")
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_HEADER_BYTES:
        raise InvalidEnvelopeError("headers", f"have {size} bytes, at most {MAX_HEADER_BYTES} are allowed")
    if "" in headers:
        raise InvalidEnvelopeError("headers", "hold an empty name")
    for name in headers:
        if name != KEY_HEADER and name.lower().startswith(RESERVED_PREFIX):
            raise ReservedHeaderError(name)
