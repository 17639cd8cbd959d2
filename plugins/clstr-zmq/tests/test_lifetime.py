"""Opening and closing, over and over, and next to peers that are dead or do not read."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable

import pytest

import clstr
from clstr.spi import Engine
from clstr_testing import FaultProxy, no_leaks
from clstr_zmq._link import ZmqLink

Connect = Callable[..., Awaitable[clstr.Transport]]
NewPort = Callable[[], int]
CYCLES = 1000


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- names alone


@pytest.mark.timeout(240)
async def test_a_thousand_peers_that_come_and_go_leave_nothing(connect: Connect, new_port: NewPort) -> None:
    """Descriptors and threads are as many as before, at the seed too."""
    port = new_port()
    seed = await connect(f"zmq://?bind=tcp://127.0.0.1:{port}")
    assert isinstance(seed, Engine)
    assert isinstance(seed.link, ZmqLink)
    inbox = seed.link._inbox
    assert inbox is not None

    async def cycle() -> None:
        async with clstr.connect(f"zmq://127.0.0.1:{port}", drain_timeout=0):
            pass

    for _ in range(20):  # the executor has its threads then
        await asyncio.gather(cycle(), cycle())
    async with no_leaks(grace=10):
        before = threading.active_count()
        for _ in range(CYCLES // 10):
            await asyncio.gather(*(cycle() for _ in range(10)))
        async with asyncio.timeout(10):
            while inbox.guests:  # noqa: ASYNC110 -- ZeroMQ's threads tell no event
                await asyncio.sleep(0.01)
        assert threading.active_count() <= before + 8  # the executor's own
    assert (inbox._post._out, inbox._post._late) == ({}, {})


async def test_closing_beside_a_peer_that_does_not_read_does_not_wait_for_it(
    connect: Connect, new_port: NewPort
) -> None:
    """Ten megabytes are on their way to it."""
    port = new_port()
    owner = await connect(f"zmq://?bind=tcp://127.0.0.1:{port}")
    await owner.subscribe([0], lambda _: asyncio.Event().wait())  # type: ignore[arg-type, return-value]
    async with FaultProxy("127.0.0.1", port) as proxy, no_leaks():
        client = await clstr.connect(f"zmq://127.0.0.1:{proxy.port}", drain_timeout=0)
        envelope = clstr.Envelope(shard=0, type="t", data=b"x" * 2**20)
        await asyncio.gather(
            client.request(clstr.Envelope(shard=0, type="t", data=b""), timeout=0.05), return_exceptions=True
        )
        proxy.black_hole()
        requests = [asyncio.create_task(client.request(envelope, timeout=60)) for _ in range(10)]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await client.aclose()
            outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {clstr.TransportClosedError}
        await proxy.reset()
        proxy.heal()


async def test_closing_beside_a_seed_that_never_answered_is_quick(new_port: NewPort) -> None:
    port = new_port()
    async with no_leaks(), asyncio.timeout(10):
        transport = await clstr.connect(f"zmq://127.0.0.1:{port}")
        await transport.aclose()


async def test_opening_can_be_cancelled() -> None:
    """It waits for a peer that accepts its connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with no_leaks():
            opening = asyncio.ensure_future(_open(f"zmq://127.0.0.1:{silent.getsockname()[1]}"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening


async def test_a_peer_that_accepts_and_says_nothing_does_not_keep_a_peer_from_opening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with asyncio.timeout(10), no_leaks():
            transport = await clstr.connect(f"zmq://127.0.0.1:{silent.getsockname()[1]}", reconnect_wait=0.1)
            with pytest.raises(clstr.TransportUnavailableError, match="has not answered yet"):
                await transport.request(clstr.Envelope(shard=0, type="t"), timeout=60)
            await transport.aclose()


async def _open(url: str) -> clstr.Transport:
    return await clstr.connect(url)
