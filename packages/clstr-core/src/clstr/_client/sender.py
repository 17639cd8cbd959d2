"""What every message of a client goes through: inheritance from the message being handled, checks, metrics."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from typing import Protocol

import msgspec

from clstr._client.send_options import SendOptions
from clstr._context import Current, current
from clstr._messages.envelope import KEY_HEADER, Envelope
from clstr._node.metrics import Metrics
from clstr._node.middleware import Middleware, wrap
from clstr.abc import ClientTransport
from clstr.errors import ClstrError, EnvelopeExpiredError, HandlerError, HandlerTimeoutError, RequestTimeoutError

TRACE_HEADERS = ("traceparent", "tracestate", "baggage", "trace-id")


class Destination(msgspec.Struct, frozen=True):
    """Where a message goes: a shard, and the key that led to it if there was one."""

    shard: int
    key: str | None = None


class Sender:
    """Makes envelopes, sends them over a client's transport, and measures what becomes of them."""

    def __init__(
        self, transport: ClientTransport, metrics: Metrics | None, middleware: tuple[Middleware, ...] = ()
    ) -> None:
        self._transport = transport
        self._metrics = metrics
        self._middleware = middleware
        self._is_plain = metrics is None and not middleware

    def request(self, to: Destination, message_type: str, data: bytes, options: SendOptions) -> Awaitable[bytes]:
        """Send a request and return, once awaited, the bytes of its reply."""
        inside = current()
        envelope = _make_envelope(to, message_type, data, options, inside)
        if self._is_plain and inside is None:  # as it mostly is: no coroutine stands in between
            return self._transport.request(envelope, timeout=options.timeout)
        if self._metrics is None:
            return self._request(envelope, _timeout(options, to, inside))
        return self._measured(self._metrics, envelope, options, to, inside)

    async def notify(self, to: Destination, message_type: str, data: bytes, options: SendOptions) -> None:
        """Send a message that gets no reply."""
        inside = current()
        envelope = _make_envelope(to, message_type, data, options, inside)
        if self._metrics is None:
            await self._notify(envelope, _timeout(options, to, inside))
        else:
            with _counted(self._metrics, message_type, self._metrics.notify_completed):
                await self._notify(envelope, _timeout(options, to, inside))

    async def _measured(
        self, metrics: Metrics, envelope: Envelope, options: SendOptions, to: Destination, inside: Current | None
    ) -> bytes:
        with _measured_request(metrics, envelope.type):
            return await self._request(envelope, _timeout(options, to, inside))

    def _request(self, envelope: Envelope, timeout: float) -> Awaitable[bytes]:
        if not self._middleware:
            return self._transport.request(envelope, timeout=timeout)
        return self._wrapped(envelope, timeout)

    async def _wrapped(self, envelope: Envelope, timeout: float) -> bytes:
        send = wrap(functools.partial(self._transport.request, timeout=timeout), self._middleware)
        return await send(envelope) or b""

    async def _notify(self, envelope: Envelope, timeout: float) -> None:
        await wrap(functools.partial(self._transport_notify, timeout), self._middleware)(envelope)

    async def _transport_notify(self, timeout: float, envelope: Envelope) -> bytes:
        await self._transport.notify(envelope, timeout=timeout)
        return b""


def _make_envelope(
    to: Destination, message_type: str, data: bytes, options: SendOptions, inside: Current | None
) -> Envelope:
    headers = options.headers
    if inside is not None:
        headers = {**_trace_headers(inside), **headers}
    if to.key is not None:
        headers = {**headers, KEY_HEADER: to.key}
    return Envelope(  # the transport validates it
        shard=to.shard,
        type=message_type,
        data=data,
        headers=headers,
        ttl_ms=options.ttl_ms,
        created_at_ms=time.time_ns() // 1_000_000 if options.ttl_ms else 0,
    )


def _trace_headers(inside: Current) -> dict[str, str]:
    headers = inside.envelope.headers
    return {name: headers[name] for name in TRACE_HEADERS if name in headers}


def _timeout(options: SendOptions, to: Destination, inside: Current | None) -> float:
    """Return how long to wait: inside a handler, no longer than its own caller does."""
    if inside is None:
        return options.timeout
    left = inside.time_left()
    if left <= 0:
        raise RequestTimeoutError(to.shard, 0, maybe_executed=False)
    return min(options.timeout, left)


class _Completed(Protocol):
    def __call__(self, message_type: str, /, *, success: bool) -> None: ...


@contextmanager
def _measured_request(metrics: Metrics, message_type: str) -> Generator[None]:
    clock = asyncio.get_running_loop().time
    started = clock()
    try:
        with _counted(metrics, message_type, metrics.request_completed):
            yield
    finally:
        metrics.request_duration(message_type, clock() - started)


@contextmanager
def _counted(metrics: Metrics, message_type: str, completed: _Completed) -> Generator[None]:
    success = False
    try:
        yield
        success = True
    except HandlerError:  # the transport did its work
        raise
    except Exception as error:
        metrics.transport_error(error_label(error))
        raise
    finally:
        completed(message_type, success=success)


_LABELS: dict[type[Exception], str] = {
    RequestTimeoutError: "timeout",
    HandlerTimeoutError: "timeout",
    EnvelopeExpiredError: "ttl_expired",
}


def error_label(error: Exception) -> str:
    """Return how metrics call ``error``: its code, else its class's name in snake case without ``Error``."""
    code = error.code if isinstance(error, ClstrError) else ""
    name = type(error).__name__.removesuffix("Error")
    return _LABELS.get(type(error)) or code or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
