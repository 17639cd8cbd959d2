"""Every bound of the transport contract, in one place."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

MAX_HEADERS = 64
MAX_HEADER_BYTES = 8 * 1024
MAX_TYPE_CHARACTERS = 256
MAX_CHAIN_KEYS = 64
MAX_CHAIN_BYTES = 4096
MAX_SECONDS = 366 * 24 * 3600  # a year: longer is a mistake in the unit
MAX_TTL_MS = MAX_SECONDS * 1000
MAX_ERROR_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    The bounds of one transport. Limits are per transport, however many nodes it hosts.

    Attributes:
        max_payload_bytes: Data bytes of one request or reply.
        max_inflight_requests: Requests of one transport that wait for a reply.
        max_inflight_bytes: Data bytes of one transport's requests that wait for a reply.
        max_concurrent: Handlers that run at once.
        max_queue: Messages that wait for a slot; nested requests have a queue of the same size of their own.
        max_queue_bytes: Bytes of the messages that wait for a slot.
        handler_timeout: Seconds that a handler may take.
        drain_timeout: Seconds that ``aclose`` waits for the handlers that have started.
        reconnect_wait: Seconds that a new request waits for a lost link.

    Raises:
        TypeError: A bound is not a number, or one of bytes, requests, handlers or messages is not an int.
        ValueError: A bound is not finite and above 0, seconds are more than a year, or others are above 2**63 - 1.
            ``max_queue``, ``drain_timeout`` and ``reconnect_wait`` may be 0.
    """

    max_payload_bytes: int = 1024 * 1024
    max_inflight_requests: int = 10_000
    max_inflight_bytes: int = 16 * 1024 * 1024
    max_concurrent: int = 100
    max_queue: int = 1000
    max_queue_bytes: int = 64 * 1024 * 1024
    handler_timeout: float = 30.0
    drain_timeout: float = 10.0
    reconnect_wait: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            check_limit(field.name, getattr(self, field.name))


_MAY_BE_ZERO = {"max_queue", "drain_timeout", "reconnect_wait"}
_IS_INTEGER = {field.name: isinstance(field.default, int) for field in fields(Limits)}


def check_limit(name: str, value: object) -> None:
    """Raise `TypeError` or `ValueError` unless ``value`` fits the limit called ``name``."""
    if isinstance(value, bool) or not isinstance(value, int if _IS_INTEGER[name] else (int, float)):
        kind = "an int" if _IS_INTEGER[name] else "a number of seconds"
        raise TypeError(f"{name} must be {kind}, not {value!r}")
    may_be_zero = name in _MAY_BE_ZERO
    if not 0 <= value < math.inf or (value == 0 and not may_be_zero):
        raise ValueError(f"{name} must be finite and {'at least' if may_be_zero else 'above'} 0, not {value!r}")
    largest = 2**63 - 1 if _IS_INTEGER[name] else MAX_SECONDS
    if value > largest:
        raise ValueError(f"{name} must be at most {largest}, not {value!r}")


def parse_limit(name: str, text: str) -> int | float:
    """Read the limit called ``name`` from a URL parameter."""
    pattern, kind = (_INTEGER, "an integer") if _IS_INTEGER[name] else (_DECIMAL, "a number of seconds")
    if not pattern.fullmatch(text):
        raise ValueError(f"{name} must be {kind}, not {text[:40]!r}")
    value = int(text) if _IS_INTEGER[name] else float(text)
    check_limit(name, value)
    return value


_INTEGER = re.compile(r"-?[0-9]{1,15}")
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
LIMIT_NAMES = frozenset(_IS_INTEGER)


def check_seconds(name: str, value: object) -> float:
    """Return ``value`` as seconds: finite and above zero, else `TypeError` or `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and above 0 seconds, not {value!r}")
    if value > MAX_SECONDS:
        raise ValueError(f"{name} must be at most {MAX_SECONDS} seconds, a year, not {value!r}")
    return value


def at_least_one(name: str, value: object) -> int:
    """Return ``value`` as a count: an int, at least 1, else `TypeError` or `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value
