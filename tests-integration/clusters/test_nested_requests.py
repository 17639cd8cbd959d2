"""Requests inside of handlers, on few slots, over real links (T6)."""

from __future__ import annotations

import asyncio

import clstr
from clusters.types import Connect

SLOTS = 2
CALLERS = 200
DEPTH = 3


async def test_nested_requests_with_fan_out_all_answer_on_two_slots(connect: Connect) -> None:
    server, transport = await connect(max_concurrent=SLOTS), await connect()

    async def handler(envelope: clstr.Envelope) -> bytes:
        depth = int(envelope.data)
        if depth == DEPTH:
            return b"1"
        onward = clstr.Envelope(shard=(envelope.shard + 1) % 4, type="count", data=str(depth + 1).encode())
        replies = await asyncio.gather(server.request(onward, timeout=60), server.request(onward, timeout=60))
        return str(sum(map(int, replies))).encode()

    await server.subscribe(range(4), handler)
    envelope = clstr.Envelope(shard=0, type="count", data=b"0")
    async with asyncio.timeout(50):
        replies = await asyncio.gather(*(transport.request(envelope, timeout=60) for _ in range(CALLERS)))
    assert set(replies) == {str(2**DEPTH).encode()}


async def test_a_graceful_stop_of_a_node_answers_what_it_took(connect: Connect) -> None:
    server, transport = await connect(), await connect()
    go_on = asyncio.Event()
    started = asyncio.Event()

    async def handler(envelope: clstr.Envelope) -> bytes:
        started.set()
        await go_on.wait()
        return b"done"

    subscription = await server.subscribe([1], handler)
    request = asyncio.create_task(transport.request(clstr.Envelope(shard=1, type="t")))
    await started.wait()
    closing = asyncio.create_task(subscription.aclose())
    await asyncio.sleep(0)
    go_on.set()
    assert await request == b"done"
    await closing
