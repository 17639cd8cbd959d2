"""`clstr._client.sender`: inheritance from the message being handled, and a client's metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from clstr._client.send_options import SendOptions
from clstr._client.sender import TRACE_HEADERS, Destination, Sender, error_label
from clstr._context import Current
from clstr._messages.envelope import Envelope
from clstr._node.metrics import Metrics
from clstr.abc import Handler, Transport
from clstr.errors import (
    CallCycleError,
    ConnectionLostError,
    EnvelopeExpiredError,
    HandlerError,
    HandlerTimeoutError,
    NoShardSubscriberError,
    OverloadedError,
    PayloadTooLargeError,
    RequestTimeoutError,
    TransportClosedError,
    TransportUnavailableError,
)

Sent = list[tuple[Envelope, float]]
Serve = Callable[[Handler], None]
Handling = Callable[..., AbstractContextManager[Current]]
Send = Callable[[Sender, Destination, str, bytes, SendOptions], Awaitable[object]]

OPTIONS = SendOptions.of(None, None, 5.0)
TO = Destination(3, "a")


class Recorder(Metrics):
    """Keeps what a client measures."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.durations: list[float] = []

    def request_duration(self, message_type: str, seconds: float) -> None:
        self.calls.append(("request_duration", message_type))
        self.durations.append(seconds)

    def request_completed(self, message_type: str, *, success: bool) -> None:
        self.calls.append(("request_completed", message_type, success))

    def notify_completed(self, message_type: str, *, success: bool) -> None:
        self.calls.append(("notify_completed", message_type, success))

    def transport_error(self, error_type: str) -> None:
        self.calls.append(("transport_error", error_type))


async def answer(envelope: Envelope) -> bytes:
    return b"reply"


def raising(transport: Transport, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(envelope: Envelope, *, timeout: float) -> bytes:
        raise error

    monkeypatch.setattr(transport, "request", fail)
    monkeypatch.setattr(transport, "notify", fail)


async def test_an_envelope_says_where_it_goes(transport: Transport, sent: Sent, serve: Serve) -> None:
    serve(answer)
    assert await Sender(transport, None).request(TO, "Get", b"data", OPTIONS) == b"reply"
    assert sent == [(Envelope(shard=3, type="Get", data=b"data", headers={"x-clstr-key": "a"}), 5.0)]


async def test_without_a_ttl_nothing_is_stamped(transport: Transport, sent: Sent, serve: Serve) -> None:
    serve(answer)
    await Sender(transport, None).request(TO, "Get", b"", OPTIONS)
    assert (sent[0][0].ttl_ms, sent[0][0].created_at_ms) == (0, 0)


async def test_with_a_ttl_the_time_is_stamped(
    transport: Transport, sent: Sent, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(answer)
    monkeypatch.setattr("time.time_ns", lambda: 1_234_567_890_999)
    await Sender(transport, None).request(TO, "Get", b"", OPTIONS.override(None, 0.0015, None))
    assert (sent[0][0].ttl_ms, sent[0][0].created_at_ms) == (2, 1_234_567)


@pytest.mark.parametrize("send", [Sender.request, Sender.notify], ids=["request", "notify"])
@pytest.mark.parametrize("metrics", [None, Metrics()], ids=["unmeasured", "measured"])
class TestInsideAHandler:
    async def test_it_waits_no_longer_than_the_handler_may_run(
        self, transport: Transport, sent: Sent, serve: Serve, handling: Handling, send: Send, metrics: Metrics | None
    ) -> None:
        serve(answer)
        sender = Sender(transport, metrics)
        with handling(left=2.5):
            await send(sender, TO, "Get", b"", OPTIONS.override(None, 9.0, None))
            await send(sender, TO, "Get", b"", OPTIONS.override(None, None, 1.0))
        assert [timeout for _, timeout in sent] == [2.5, 1.0]
        assert sent[0][0].ttl_ms == 9000

    async def test_without_time_left_nothing_is_sent(
        self, transport: Transport, sent: Sent, handling: Handling, send: Send, metrics: Metrics | None
    ) -> None:
        with handling(left=0.0), pytest.raises(RequestTimeoutError) as caught:
            await send(Sender(transport, metrics), TO, "Get", b"", OPTIONS)
        assert not caught.value.maybe_executed
        assert caught.value.shard == 3
        assert sent == []

    async def test_trace_headers_are_passed_on(
        self, transport: Transport, sent: Sent, serve: Serve, handling: Handling, send: Send, metrics: Metrics | None
    ) -> None:
        serve(answer)
        trace = {name: f"its {name}" for name in TRACE_HEADERS}
        with handling(headers={**trace, "x-clstr-key": "outer", "other": "1"}):
            await send(Sender(transport, metrics), TO, "Get", b"", OPTIONS)
            await send(Sender(transport, metrics), TO, "Get", b"", OPTIONS.override({"baggage": "own"}, None, None))
        assert sent[0][0].headers == {**trace, "x-clstr-key": "a"}
        assert sent[1][0].headers == {**trace, "baggage": "own", "x-clstr-key": "a"}

    async def test_once_it_has_ended_nothing_is_inherited(
        self, transport: Transport, sent: Sent, serve: Serve, handling: Handling, send: Send, metrics: Metrics | None
    ) -> None:
        serve(answer)
        with handling(left=0.0, headers={"trace-id": "1"}) as current:
            current.ended = True
            await send(Sender(transport, metrics), Destination(3), "Get", b"", OPTIONS)
        assert sent == [(Envelope(shard=3, type="Get"), 5.0)]


async def test_a_request_is_measured(transport: Transport, serve: Serve) -> None:
    serve(answer)
    metrics = Recorder()
    await Sender(transport, metrics).request(TO, "Get", b"", OPTIONS)
    assert metrics.calls == [("request_completed", "Get", True), ("request_duration", "Get")]
    assert metrics.durations[0] >= 0


async def test_a_notify_is_measured(transport: Transport, serve: Serve) -> None:
    serve(answer)
    metrics = Recorder()
    await Sender(transport, metrics).notify(TO, "Get", b"", OPTIONS)
    assert metrics.calls == [("notify_completed", "Get", True)]


async def test_the_duration_is_the_loops_time(
    transport: Transport, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]

    async def slow(envelope: Envelope) -> bytes:
        now[0] += 7.0
        return b""

    serve(slow)
    metrics = Recorder()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    await Sender(transport, metrics).request(TO, "Get", b"", OPTIONS)
    assert metrics.durations == [7.0]


async def test_a_failed_request_is_measured(transport: Transport) -> None:
    metrics = Recorder()
    with pytest.raises(NoShardSubscriberError):
        await Sender(transport, metrics).request(TO, "Get", b"", OPTIONS)
    assert metrics.calls == [
        ("transport_error", "no_subscriber"),
        ("request_completed", "Get", False),
        ("request_duration", "Get"),
    ]


async def test_a_failed_notify_is_measured(transport: Transport) -> None:
    metrics = Recorder()
    with pytest.raises(NoShardSubscriberError):
        await Sender(transport, metrics).notify(TO, "Get", b"", OPTIONS)
    assert metrics.calls == [("transport_error", "no_subscriber"), ("notify_completed", "Get", False)]


@pytest.mark.parametrize(
    "error", [HandlerError("ValueError", "no"), asyncio.CancelledError()], ids=["raised", "cancelled"]
)
async def test_neither_a_handlers_error_nor_a_cancellation_is_the_transports(
    transport: Transport, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(transport, error, monkeypatch)
    metrics = Recorder()
    with pytest.raises(type(error)):
        await Sender(transport, metrics).request(TO, "Get", b"", OPTIONS)
    assert metrics.calls == [("request_completed", "Get", False), ("request_duration", "Get")]


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (NoShardSubscriberError(1), "no_subscriber"),
        (RequestTimeoutError(1, 5.0), "timeout"),
        (HandlerTimeoutError(1, 5.0), "timeout"),
        (EnvelopeExpiredError(1, 5.0), "ttl_expired"),
        (TransportClosedError(), "closed"),
        (OverloadedError("max_queue", 1), "overloaded"),
        (PayloadTooLargeError(2, 1), "too_large"),
        (CallCycleError("a -> a"), "call_cycle"),
        (ConnectionLostError("gone"), "connection_lost"),
        (TransportUnavailableError("gone"), "transport_unavailable"),
        (OSError("odd"), "os"),
        (KeyError("odd"), "key"),
        (Exception("odd"), "exception"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_errors_are_counted_by_name(
    transport: Transport, error: Exception, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(transport, error, monkeypatch)
    metrics = Recorder()
    with pytest.raises(type(error)):
        await Sender(transport, metrics).notify(TO, "Get", b"", OPTIONS)
    assert metrics.calls == [("transport_error", label), ("notify_completed", "Get", False)]
    assert error_label(error) == label
