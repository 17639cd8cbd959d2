"""Names of buses, and who gets a message."""

from __future__ import annotations

import asyncio

import pytest

import clstr

ENVELOPE = clstr.Envelope(shard=0, type="t", data=b"x")


async def echo(envelope: clstr.Envelope) -> bytes:
    return envelope.data


async def test_the_bare_url_is_private_to_its_connection() -> None:
    async with clstr.connect("memory://") as one, clstr.connect("memory://") as other:
        await one.subscribe([0], echo)
        assert await one.request(ENVELOPE) == b"x"
        with pytest.raises(clstr.NoShardSubscriberError):
            await other.request(ENVELOPE)


async def test_a_name_is_shared_until_the_last_connection_leaves() -> None:
    async with clstr.connect("memory://shared") as one, clstr.connect("memory://shared") as other:
        await one.subscribe([0], echo)
        assert await other.request(ENVELOPE) == b"x"
    async with clstr.connect("memory://shared") as later:
        with pytest.raises(clstr.NoShardSubscriberError):
            await later.request(ENVELOPE)


async def test_a_name_that_another_loop_uses_is_refused() -> None:
    def connect_elsewhere() -> None:
        async def connect() -> None:
            async with clstr.connect("memory://busy"):
                pass

        asyncio.run(connect())

    async with clstr.connect("memory://busy"):
        with pytest.raises(clstr.TransportUnavailableError, match="memory://busy is in use on another event loop"):
            await asyncio.to_thread(connect_elsewhere)


def test_a_name_left_behind_by_a_closed_loop_is_free() -> None:
    async def leave_open() -> None:
        await clstr.connect("memory://left")

    for _ in range(2):
        asyncio.run(leave_open())


async def test_a_peer_that_leaves_ends_the_requests_that_wait_for_it() -> None:
    async with clstr.connect("memory://leave", drain_timeout=0) as server, clstr.connect("memory://leave") as client:
        started = asyncio.Event()

        async def deaf(_: clstr.Envelope) -> bytes:
            started.set()
            await asyncio.Event().wait()
            return b""

        await server.subscribe([0], deaf)
        request = asyncio.create_task(client.request(ENVELOPE, timeout=60))
        await started.wait()
        await server.aclose()
        with pytest.raises(clstr.HandlerTimeoutError):
            await request


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://a,b", "write one name without a port"),
        ("memory://a?codec=xml", "parameter 'codec': must be json or msgpack, not 'xml'"),
        ("memory://a?color=red", "color"),
        ("memory:///a", "it has a name and parameters only, as in memory://name"),
        ("memory://me:secret@a", "it has a name and parameters only, as in memory://name"),
    ],
    ids=["two names", "unknown codec", "unknown parameter", "a path", "a user"],
)
async def test_a_mistake_in_the_url_is_named(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await clstr.connect(url)
