"""Many requests, cancelled at random, leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from itertools import count

import pytest

import clstr
from clstr.spi import Engine
from clusters.types import Connect

REQUESTS = 100_000
CALLERS = 256
pytestmark = pytest.mark.timeout(300)


async def test_requests_with_random_cancellations_leave_no_task_no_future_no_timer(connect: Connect) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 -- to run a failure again
    chance = random.Random(seed)
    alive = _alive()
    server, transport = await connect(), await connect()

    async def handler(envelope: clstr.Envelope) -> bytes:
        await asyncio.sleep(0)
        return envelope.data

    await server.subscribe(range(16), handler)
    before = asyncio.all_tasks()
    numbers = count()
    answered = cancelled = 0

    async def one(number: int) -> None:
        data = str(number).encode()
        reply = await transport.request(clstr.Envelope(shard=number % 16, type="echo", data=data), timeout=120)
        assert reply == data

    async def caller() -> None:
        nonlocal answered, cancelled
        for number in numbers:
            if number >= REQUESTS:
                return
            task = asyncio.create_task(one(number))
            if chance.random() < 0.2:
                for _ in range(chance.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                await task
                answered += 1
            except asyncio.CancelledError:
                cancelled += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    assert answered + cancelled == REQUESTS
    assert cancelled > REQUESTS // 100
    await _until_idle(server)
    assert asyncio.all_tasks() == before
    for engine in (server, transport):
        assert isinstance(engine, Engine)
        assert len(engine.pending) == 0
        assert engine.pending.inflight_bytes == 0
        assert len(engine.deadlines) == 0
        await engine.aclose()
    assert _alive() == alive


def _alive() -> Counter[str]:
    """Count the engine's objects that are referenced from anywhere, and timers that are set."""
    gc.collect()
    objects = (each for each in gc.get_objects() if not (isinstance(each, asyncio.TimerHandle) and each.cancelled()))
    kinds = Counter(type(each).__name__ for each in objects)
    return Counter({name: kinds[name] for name in ("Pending", "Delivery", "TimerHandle")})


async def _until_idle(transport: clstr.Transport) -> None:
    assert isinstance(transport, Engine)
    assert await transport.dispatcher.settle(lambda _: True, asyncio.get_running_loop().time() + 10)
