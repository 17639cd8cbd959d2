"""Handlers that checks drive: they say what runs, and wait until they are told to go on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import clstr
from clstr_testing._virtual_time import VirtualTimeLoop

FAR = 60.0
"""Seconds that nothing in a check waits for: what comes "at once" comes before a check's guard does."""


def envelope(shard: int = 0, data: bytes = b"", *, type: str = "check", ttl_ms: int = 0) -> clstr.Envelope:  # noqa: A002 -- the field's name
    """Make an envelope for a check."""
    return clstr.Envelope(shard=shard, type=type, data=data, ttl_ms=ttl_ms)


async def echo(message: clstr.Envelope) -> bytes:
    """Answer with the data."""
    return message.data


class Gate:
    """
    A handler that stops each message until `open`.

    Attributes:
        started: How often it was started, by the message's data.
        running: How many run now.
        peak: How many ran at once, at most.
    """

    def __init__(self, *, is_open: bool = False, deaf: bool = False) -> None:
        self.started: Counter[bytes] = Counter()
        self.order: list[bytes] = []
        self.cancelled = 0
        self.running = 0
        self.peak = 0
        self._deaf = deaf
        self._open = asyncio.Event()
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        if is_open:
            self._open.set()

    def open(self) -> None:
        """Let every message go on, now and from now on."""
        self._open.set()

    def close(self) -> None:
        """Stop messages again, from now on."""
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()  # a deaf handler would outlive a check that failed, and the loop would wait for it

    async def __call__(self, message: clstr.Envelope) -> bytes:
        """Count, wait, answer with the data."""
        self.started[message.data] += 1
        self.order.append(message.data)
        self.running += 1
        self.peak = max(self.peak, self.running)
        self._notice()
        try:
            while not self._open.is_set():
                await self._wait()
        finally:
            self.running -= 1
            self._notice()
        return message.data

    async def _wait(self) -> None:
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self._notice()
            if not self._deaf:
                raise

    async def until(self, condition: Callable[[Gate], bool]) -> None:
        """Wait until ``condition`` is true of this gate; the check's guard bounds it."""
        if condition(self):
            return
        noticed = asyncio.get_running_loop().create_future()
        self._waiters.append((lambda: condition(self), noticed))
        await noticed

    async def until_started(self, count: int) -> None:
        """Wait until ``count`` messages have started."""
        await self.until(lambda gate: gate.started.total() >= count)

    async def until_started_with(self, data: bytes, times: int = 1) -> None:
        """Wait until messages with ``data`` have started so many times."""
        await self.until(lambda gate: gate.started[data] >= times)

    async def until_cancelled(self, count: int) -> None:
        """Wait until ``count`` messages have been cancelled."""
        await self.until(lambda gate: gate.cancelled >= count)

    def _notice(self) -> None:
        for condition, noticed in self._waiters:
            if not noticed.done() and condition():
                noticed.set_result(None)


_is_delayed: ContextVar[bool] = ContextVar("is_delayed", default=False)


@contextmanager
def late_first_steps(seconds: float) -> Iterator[ContextVar[bool]]:
    """
    Block the loop for ``seconds`` between the creation of a handler's task and its first step.

    So does another handler that does not wait. It concerns the handlers of transports that are opened while the
    variable that this yields is true: handlers start in the context of `clstr.connect`.
    """
    loop = asyncio.get_running_loop()

    def create(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:  # Any: of the loop
        task = asyncio.Task(work, loop=loop, **options)
        if (context := options.get("context")) is not None and context.get(_is_delayed):
            block(seconds)
        return task

    before = loop.get_task_factory()
    loop.set_task_factory(create)
    try:
        yield _is_delayed
    finally:
        loop.set_task_factory(before)


def now_ms() -> int:
    """Return the wall clock's time in milliseconds since the epoch, as envelopes state it."""
    return time.time_ns() // 1_000_000


def block(seconds: float) -> None:
    """Let ``seconds`` pass on the running loop's clock without letting it turn."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualTimeLoop):
        loop.pass_time(seconds)
    else:
        time.sleep(seconds)


async def settle(ticks: int = 50) -> None:
    """Let the loop turn: what was on its way in this process has arrived then."""
    for _ in range(ticks):
        await asyncio.sleep(0)
