"""`clstr._client.redelivery`: what certainly did not run is sent again, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import clstr_testing
from clstr._client.client import Client
from clstr._client.redelivery import TRANSIENT, Redelivery
from clstr._context import Current
from clstr._messages.envelope import Envelope
from clstr.abc import ClientTransport, CloseReport, Transport
from clstr.errors import (
    AccessDeniedError,
    ClstrError,
    ConnectionLostError,
    DrainingError,
    EnvelopeExpiredError,
    NoShardSubscriberError,
    NotOwnerError,
    OverloadedError,
    RequestTimeoutError,
    TransportUnavailableError,
    UnknownMessageError,
)

ENVELOPE = Envelope(shard=3, type="Get")
PASSING: list[Callable[[], ClstrError]] = [
    lambda: DrainingError(3),
    lambda: NoShardSubscriberError(3),
    lambda: NotOwnerError(3),
    lambda: OverloadedError("max_queue", 1000),
    lambda: TransportUnavailableError("the link is down"),
]


def surely_ran_not(error: ClstrError, *, maybe_executed: bool = False) -> ClstrError:
    error.maybe_executed = maybe_executed
    return error


class Failing(ClientTransport):
    """Raises what it was told, one after the other, then answers."""

    def __init__(self, *errors: ClstrError) -> None:
        self.errors = list(errors)
        self.sent: list[tuple[float, float]] = []

    @property
    def max_payload_bytes(self) -> int:
        return 17

    async def request(self, envelope: Envelope, *, timeout: float = 5.0) -> bytes:
        self.sent.append((asyncio.get_running_loop().time(), timeout))
        if self.errors:
            raise self.errors.pop(0)
        return b"reply"

    async def notify(self, envelope: Envelope, *, timeout: float = 5.0) -> None:
        await self.request(envelope, timeout=timeout)

    async def aclose(self) -> CloseReport:
        return CloseReport(refused=4)


def about(expected: Any) -> Any:
    """Each timer of the virtual clock is up to 2 microseconds late."""
    return pytest.approx(expected, abs=1e-4)


def in_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(work)


@pytest.mark.parametrize("make", PASSING, ids=lambda make: type(make()).__name__)
def test_a_refusal_for_a_passing_reason_is_sent_again(make: Callable[[], ClstrError]) -> None:
    async def run() -> None:
        transport = Failing(make(), make())
        assert await Redelivery(transport).request(ENVELOPE) == b"reply"
        assert len(transport.sent) == 3
        transport.errors.append(make())
        await Redelivery(transport).notify(ENVELOPE)
        assert len(transport.sent) == 5

    assert isinstance(make(), TRANSIENT)
    in_virtual_time(run())


@pytest.mark.parametrize(
    "error",
    [
        AccessDeniedError("no right"),
        ConnectionLostError("lost"),
        EnvelopeExpiredError(3, 1.0),
        RequestTimeoutError(3, 1.0, maybe_executed=False),
        UnknownMessageError("Get", "Put"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_other_error_is_raised_at_once(error: ClstrError) -> None:
    async def run() -> None:
        transport = Failing(error)
        with pytest.raises(type(error)):
            await Redelivery(transport).request(ENVELOPE)
        assert len(transport.sent) == 1

    in_virtual_time(run())


@pytest.mark.parametrize("make", PASSING, ids=lambda make: type(make()).__name__)
def test_what_may_have_run_is_never_sent_again(make: Callable[[], ClstrError]) -> None:
    async def run() -> None:
        transport = Failing(surely_ran_not(make(), maybe_executed=True))
        with pytest.raises(ClstrError):
            await Redelivery(transport).request(ENVELOPE)
        assert len(transport.sent) == 1

    in_virtual_time(run())


@pytest.mark.parametrize(
    ("chance", "pauses"),
    [
        (1.0, [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0]),
        (0.0, [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5]),
    ],
    ids=["longest", "shortest"],
)
def test_pauses_double_up_to_a_second_and_each_attempt_has_the_time_that_is_left(
    chance: float, pauses: list[float]
) -> None:
    async def run() -> None:
        transport = Failing(*(NoShardSubscriberError(3) for _ in pauses))
        start = asyncio.get_running_loop().time()
        await Redelivery(transport, lambda: chance).request(ENVELOPE, timeout=20.0)
        passed = [sum(pauses[:n]) for n in range(len(pauses) + 1)]
        assert [when - start for when, _ in transport.sent] == about(passed)
        assert [timeout for _, timeout in transport.sent] == about([20.0 - each for each in passed])

    in_virtual_time(run())


def test_at_the_timeout_the_last_refusal_is_raised_without_waiting_for_it() -> None:
    async def run() -> None:
        transport = Failing(*(OverloadedError("max_queue", n) for n in range(100)))
        start = asyncio.get_running_loop().time()
        with pytest.raises(OverloadedError) as caught:
            await Redelivery(transport, lambda: 1.0).request(ENVELOPE, timeout=0.1)
        assert caught.value.bound == len(transport.sent) - 1 == 3
        assert asyncio.get_running_loop().time() - start == about(0.07)

    in_virtual_time(run())


def test_a_handler_lends_its_slot_while_it_waits(handling: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    async def run() -> None:
        with handling() as message:
            kind = type(message)
            monkeypatch.setattr(kind, "lend", lambda _: calls.append("lend"))
            monkeypatch.setattr(kind, "reclaim", lambda _: calls.append("reclaim"))
            assert isinstance(message, Current)
            await Redelivery(Failing(DrainingError(3))).request(ENVELOPE)

    in_virtual_time(run())
    assert calls == ["lend", "reclaim"]


async def test_the_rest_is_the_transport_s() -> None:
    redelivery = Redelivery(Failing())
    assert redelivery.max_payload_bytes == 17
    assert await redelivery.aclose() == CloseReport(refused=4)


async def test_a_client_sends_again_if_told_to(
    transport: Transport, sent: list[object], serve: Callable[..., None]
) -> None:
    async def late(envelope: Envelope) -> bytes:
        return b"reply"

    client = Client(transport, num_shards=64, retry_undelivered=True)
    call = asyncio.create_task(client.request_shard(3, "Get"))
    await asyncio.sleep(0)
    assert len(sent) == 1
    serve(late)
    async with asyncio.timeout(5):
        assert await call == b"reply"
    assert len(sent) > 1


async def test_a_client_sends_once_if_not(transport: Transport, sent: list[object]) -> None:
    with pytest.raises(NoShardSubscriberError):
        await Client(transport, num_shards=64).request_shard(3, "Get")
    assert len(sent) == 1
