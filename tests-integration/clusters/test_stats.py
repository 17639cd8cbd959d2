"""What a transport says of itself, on each of them."""

from __future__ import annotations

import asyncio

import pytest

import clstr
from clstr import Envelope, OverloadedError
from clusters.types import Connect


async def test_what_is_sent_received_refused_and_held_is_counted(connect: Connect) -> None:
    client, node = await connect(), await connect(max_concurrent=1, max_queue=1)
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def wait(_: Envelope) -> bytes:
        begun.set()
        await may_end.wait()
        return b""

    subscription = await node.subscribe([0], wait)
    async with asyncio.timeout(30):
        running = asyncio.create_task(client.request(Envelope(shard=0, type="Run", data=b"x" * 100), timeout=30))
        await begun.wait()
        waiting = asyncio.create_task(client.request(Envelope(shard=0, type="Wait", data=b"x" * 200), timeout=30))
        while not node.stats().queue_depth:  # noqa: ASYNC110 -- what another process would look at, too
            await asyncio.sleep(0.001)
        with pytest.raises(OverloadedError):
            await client.request(Envelope(shard=0, type="Refused"), timeout=30)

        busy, asking = node.stats(), client.stats()
        assert (busy.received, dict(busy.refused), busy.handlers, busy.queue_depth) == (3, {"overloaded": 1}, 1, 1)
        assert busy.queue_bytes > 200
        assert (asking.sent, asking.requests_in_flight, asking.bytes_in_flight) == (3, 2, 300)
        assert asking.is_up

        may_end.set()
        await asyncio.gather(running, waiting)
    idle = node.stats()
    assert (idle.handlers, idle.queue_depth, idle.queue_bytes) == (0, 0, 0)
    await subscription.aclose()
    await client.aclose()
    closed = client.stats()
    assert (closed.sent, closed.requests_in_flight, closed.bytes_in_flight, closed.is_up) == (3, 0, 0, False)
    assert isinstance(closed, clstr.TransportStats)
