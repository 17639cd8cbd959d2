"""Overload: what cannot end in time is refused before it runs, and what runs is answered."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import pytest

import clstr
import clstr_testing

SERVICE = 0.05  # seconds of each run
TIMEOUT = 1.0
SECONDS = 6.0


class Work(msgspec.Struct, clstr.Message[int]):
    seconds: float = SERVICE


class Worker(clstr.Actor):
    @clstr.handles(Work)
    async def work(self, message: Work, _context: clstr.Context) -> int:
        await asyncio.sleep(message.seconds)
        return 1


async def raw(_envelope: clstr.Envelope) -> bytes:
    await asyncio.sleep(SERVICE)
    return b"1"


Ask = Callable[[str, Work], Coroutine[Any, Any, str]]


def in_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(work)


async def serve(handler: Any, use: Callable[[Ask], Awaitable[None]], **options: Any) -> None:
    async with clstr.connect("memory://", **options) as transport:
        client = clstr.Client(transport, num_shards=8, timeout=TIMEOUT, retry_undelivered=False)

        async def ask(key: str, message: Work) -> str:
            try:
                await client.key(key).request(message)
            except clstr.ClstrError as error:
                return f"{type(error).__name__}, {error.maybe_executed}"
            return "answered"

        async with clstr.Node(transport, handler, shards=range(8), num_shards=8):
            await use(ask)


async def load(ask: Ask, rate: float, keys: int) -> Counter[str]:
    tasks: list[asyncio.Task[str]] = []
    for number in range(int(rate * SECONDS)):
        tasks.append(asyncio.create_task(ask(f"k{number % keys}", Work())))
        await asyncio.sleep(1 / rate)
    return Counter(await asyncio.gather(*tasks))


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("slots", [None, 4], ids=["one key", "many keys"])
def test_overload_answers_as_much_as_fits_and_runs_nothing_in_vain(factor: int, slots: int | None) -> None:
    async def use(ask: Ask) -> None:
        capacity = (slots or 1) / SERVICE
        ends = await load(ask, factor * capacity, 50 if slots else 1)
        assert ends["answered"] >= 0.9 * capacity * SECONDS
        assert set(ends) == {"answered", "EnvelopeExpiredError, False"}

    if slots is None:
        in_virtual_time(serve(clstr.ActorHandler(Worker), use))
    else:
        in_virtual_time(serve(raw, use, max_concurrent=slots))


def test_without_overload_nothing_is_refused() -> None:
    async def use(ask: Ask) -> None:
        assert set(await load(ask, 0.9 / SERVICE, 1)) == {"answered"}

    in_virtual_time(serve(clstr.ActorHandler(Worker), use))


def test_a_slow_run_does_not_shut_a_type_out() -> None:
    async def use(ask: Ask) -> None:
        assert await ask("k", Work(seconds=0.9)) == "answered"
        ends = await asyncio.gather(*(ask("k", Work(seconds=seconds)) for seconds in (0.5, SERVICE)))
        assert ends == ["answered", "EnvelopeExpiredError, False"]  # judged by slow runs alone, it takes too long
        ends = await asyncio.gather(*(ask("k", Work()) for _ in range(10)))
        assert ends == ["answered"] * 10  # the first did not wait, and its run is what the others are judged by

    in_virtual_time(serve(clstr.ActorHandler(Worker), use))


class Breaks(Worker):
    """Fails at what its key says."""

    async def on_start(self) -> None:
        self.fail("start")

    async def on_stop(self) -> None:
        self.fail("stop")

    @clstr.handles(Work)
    async def work(self, message: Work, _context: clstr.Context) -> int:
        self.fail("message")
        if self.key.startswith("hang"):
            await asyncio.sleep(60)
        return 1

    def fail(self, where: str) -> None:
        if self.key.startswith(where):
            raise ValueError(where)


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("hang", "a handler was cancelled after 0.5 s"),
        ("message", "the handler of Work failed on shard"),
        ("start", "starting an actor of kind Breaks failed"),
        ("stop", "stopping a Breaks failed"),
    ],
)
def test_a_storm_of_failures_is_one_line_and_not_one_for_each(
    caplog: pytest.LogCaptureFixture, where: str, line: str
) -> None:
    async def use(ask: Ask) -> None:
        for _ in range(2):
            await asyncio.gather(*(ask(f"{where} {number}", Work()) for number in range(100)))
            await asyncio.sleep(20)

    in_virtual_time(serve(clstr.ActorHandler(Breaks, idle_after=10), use, handler_timeout=0.5))
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 2
    assert lines[0].getMessage().startswith(line)
    assert lines[1].getMessage().endswith("(99 more since the last such line)")
