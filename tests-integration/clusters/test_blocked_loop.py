"""Handlers that block the event loop, over every transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

import clstr
from clusters.types import Connect

MESSAGES, BLOCKED, TTL_MS = 100, 0.02, 100


def eager(loop: asyncio.AbstractEventLoop) -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("Python 3.12 brought eager tasks")
    loop.set_task_factory(factory)


@pytest.mark.parametrize("prepare", [lambda _loop: None, eager], ids=["as it is", "eager task factory"])
async def test_what_expires_behind_handlers_that_block_the_loop_never_starts(
    connect: Connect, prepare: Callable[[asyncio.AbstractEventLoop], None]
) -> None:
    """Those that are read together have the same time, although handlers begin where their messages arrive."""
    prepare(asyncio.get_running_loop())
    node, client = await connect(), await connect()
    begun = 0

    async def block(_: clstr.Envelope) -> bytes:
        nonlocal begun
        begun += 1
        time.sleep(BLOCKED)  # noqa: ASYNC251 -- that is the fault
        return b""

    await node.subscribe([0], block)
    calls: list[Awaitable[bytes]] = [
        client.request(clstr.Envelope(shard=0, type="block", ttl_ms=TTL_MS), timeout=60) for _ in range(MESSAGES)
    ]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, clstr.EnvelopeExpiredError) and not each.maybe_executed]
    assert len(refused) + begun == MESSAGES
    # Six fit into the TTL. A broker may hand the burst over in several parts, each of which counts from its own read.
    assert begun <= MESSAGES // 2
