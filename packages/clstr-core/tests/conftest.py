"""
Fakes that several test modules share, handed out as fixtures.

Test modules cannot import from here (importlib mode), so what a fixture returns is typed by clstr's own abstractions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from clstr._context import Current, is_refusal_of, refuse, set_current
from clstr._messages.envelope import Envelope
from clstr.abc import CloseReport, Handler, ReleaseReport, Subscription, Transport, TransportStats
from clstr.errors import EnvelopeExpiredError, HandlerError, NoShardSubscriberError

Sent = list[tuple[Envelope, float]]
Serve = Callable[[Handler], None]
Handling = Callable[..., AbstractContextManager[Current]]


class FakeCurrent(Current, kw_only=True):
    """The message being handled, with as much time left as the test says."""

    left: float

    def time_left(self) -> float:
        return self.left

    def check_time(self) -> None:
        if self.left <= 0:
            raise refuse(EnvelopeExpiredError(self.envelope.shard, 1.0))

    def lend(self) -> None:
        """A fake has no slot."""

    def reclaim(self) -> None:
        """A fake has no slot."""


@contextmanager
def handle(
    *, headers: Mapping[str, str] | None = None, left: float = 30.0, envelope: Envelope | None = None
) -> Iterator[Current]:
    """Be inside a handler."""
    current = FakeCurrent(envelope=envelope or Envelope(shard=0, type="Outer", headers=headers or {}), left=left)
    set_current(current)
    try:
        yield current
    finally:
        current.ended = True
        set_current(None)


@pytest.fixture
async def eager() -> AsyncIterator[None]:
    """Make every task of the test's loop eager."""
    loop = asyncio.get_running_loop()
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("Python 3.12 brought eager tasks")
    loop.set_task_factory(factory)
    probe = asyncio.sleep(0)
    try:
        await loop.create_task(probe)
    except TypeError as error:
        # uvloop 0.22 and 0.23 pass `eager_start` on, which the factory takes from Python 3.13.4 and 3.14 on.
        probe.close()
        loop.set_task_factory(None)
        pytest.skip(f"uvloop cannot make tasks with asyncio.eager_task_factory of this Python: {error}")
    yield
    loop.set_task_factory(None)


NoTasks = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def no_tasks() -> NoTasks:
    """Return a context manager in which the loop's task factory fails."""

    @contextmanager
    def failing() -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(refuse_to_make)
        try:
            yield
        finally:
            loop.set_task_factory(None)

    return failing


def refuse_to_make(_loop: object, _work: object, **_options: object) -> asyncio.Task[Any]:  # Any: as in asyncio
    raise RuntimeError("no tasks today")


class FakeSubscription(Subscription):
    def __init__(self, transport: FakeTransport, handler: Handler) -> None:
        self.transport = transport
        self.handler = handler

    @property
    def shards(self) -> frozenset[int]:
        owned = self.transport.handlers.items()
        return frozenset(shard for shard, handler in owned if handler == self.handler)

    async def add(self, shards: Iterable[int]) -> None:
        self.transport.handlers.update(dict.fromkeys(shards, self.handler))

    async def remove(self, shards: Iterable[int]) -> ReleaseReport:
        for shard in self.shards & frozenset(shards):
            del self.transport.handlers[shard]
        return ReleaseReport()

    async def aclose(self) -> ReleaseReport:
        return await self.remove(self.shards)


class FakeTransport(Transport):
    """Calls handlers directly, each in a task of its own."""

    def __init__(self) -> None:
        self.sent: Sent = []
        self.handlers: dict[int, Handler] = {}
        self.fallback: Handler | None = None
        self.closed = asyncio.Event()

    @property
    def max_payload_bytes(self) -> int:
        return 1024

    async def request(self, envelope: Envelope, *, timeout: float = 5.0) -> bytes:
        envelope.validate()
        self.sent.append((envelope, timeout))
        handler = self.handlers.get(envelope.shard, self.fallback)
        if handler is None:
            raise NoShardSubscriberError(envelope.shard)
        return await asyncio.create_task(self.run(handler, envelope)) or b""

    async def run(self, handler: Handler, envelope: Envelope) -> bytes | None:
        with handle(envelope=envelope) as current:
            try:
                return await handler(envelope)
            except Exception as error:
                if is_refusal_of(error, current):
                    raise
                raise HandlerError(type(error).__name__, str(error)) from error

    async def notify(self, envelope: Envelope, *, timeout: float = 5.0) -> None:
        await self.request(envelope, timeout=timeout)

    async def subscribe(self, shards: Iterable[int], handler: Handler) -> Subscription:
        subscription = FakeSubscription(self, handler)
        await subscription.add(shards)
        return subscription

    async def wait_closed(self) -> None:
        await self.closed.wait()

    def stats(self) -> TransportStats:
        return TransportStats()

    async def aclose(self) -> CloseReport:
        self.closed.set()
        return CloseReport()


@pytest.fixture
async def fake_transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def transport(fake_transport: FakeTransport) -> Transport:
    """A transport that calls its handlers directly."""
    return fake_transport


@pytest.fixture
def sent(fake_transport: FakeTransport) -> Sent:
    """Every envelope that ``transport`` was given, with its timeout."""
    return fake_transport.sent


@pytest.fixture
def serve(fake_transport: FakeTransport) -> Serve:
    """Let a handler answer for every shard that nobody subscribed to."""

    def set_fallback(handler: Handler) -> None:
        fake_transport.fallback = handler

    return set_fallback


@pytest.fixture
def handling() -> Handling:
    """Be inside a handler: ``with handling(headers=..., left=...)``."""
    return handle


@pytest.fixture
def run_handler(fake_transport: FakeTransport) -> Callable[[Handler, Envelope], Awaitable[bytes | None]]:
    """Run a handler as a transport does: in its own context, with its errors as the caller gets them."""
    return fake_transport.run
