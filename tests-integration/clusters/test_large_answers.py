"""Many large answers at once to one client, which brokers disconnect if it reads more slowly than they come."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack
from typing import Any

import pytest

import clstr
from clstr import Envelope
from clstr_testing import redis_server
from clusters.urls import cluster_url

ANSWER = b"x" * (683 * 1024)
NODES, REQUESTS = 4, 120


async def answer(_: Envelope) -> bytes:
    return ANSWER


@pytest.mark.parametrize(
    ("transport", "options"),
    [("nats", {}), ("nats", {"codec": "json"}), ("redis", {}), ("redis", {"codec": "json"}), ("zmq", {})],
    ids=["nats", "nats, json", "redis", "redis, json", "zmq"],
)
async def test_one_client_gets_every_answer(transport: str, options: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(cluster_url(transport))
        await ask_for_all(stack, url, options)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
async def test_one_client_gets_every_answer_from_redis_itself() -> None:
    """It counts large messages towards what a subscriber may leave unread; Valkey does not."""
    async with redis_server() as server, AsyncExitStack() as stack:
        await ask_for_all(stack, server.url, {})


async def ask_for_all(stack: AsyncExitStack, url: str, options: dict[str, Any]) -> None:
    """Connect nodes and a client, and let it ask them all at once."""
    for shard in range(NODES):
        node = await stack.enter_async_context(clstr.connect(url))
        await node.subscribe([shard], answer)
    client = await stack.enter_async_context(clstr.connect(url, **options))
    asked = [client.request(Envelope(shard=number % NODES, type="Get"), timeout=60) for number in range(REQUESTS)]
    assert {len(each) for each in await asyncio.gather(*asked)} == {len(ANSWER)}
