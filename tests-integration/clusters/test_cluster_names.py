"""Two clusters with one prefix on one broker, over real links: each refuses what the other sends."""

from __future__ import annotations

import asyncio
import itertools

import pytest

import clstr
from clstr.errors import InvalidEnvelopeError
from clstr.spi import Engine
from clusters.types import Connect

NAMES = ("prod", "staging", "")


async def echo(envelope: clstr.Envelope) -> bytes:
    return envelope.data


async def in_cluster(connect: Connect, name: str) -> Engine:
    transport = await connect()
    assert isinstance(transport, Engine)
    if name:
        transport.join_cluster(name)
    return transport


@pytest.mark.parametrize(("ours", "theirs"), list(itertools.permutations(NAMES, 2)))
async def test_a_request_of_another_cluster_is_refused_and_counted(connect: Connect, ours: str, theirs: str) -> None:
    node, client, stranger = [await in_cluster(connect, name) for name in (ours, ours, theirs)]
    ran: list[str] = []

    async def handler(envelope: clstr.Envelope) -> bytes:
        ran.append(envelope.type)
        return b"done"

    await node.subscribe([1], handler)
    expected = rf"cluster is {theirs or 'not named'}, but this node's is {ours or 'not named'}"
    with pytest.raises(InvalidEnvelopeError, match=expected) as caught:
        await stranger.request(clstr.Envelope(shard=1, type="foreign"))
    assert not caught.value.maybe_executed
    await stranger.notify(clstr.Envelope(shard=1, type="foreign"))
    assert await client.request(clstr.Envelope(shard=1, type="own")) == b"done"
    async with asyncio.timeout(30):
        while node.stats().foreign_requests < 2:  # noqa: ASYNC110 -- the stranger's notify takes a way of its own
            await asyncio.sleep(0.001)
    assert ran == ["own"]
    assert node.stats().foreign_requests == 2


async def test_large_answers_are_fetched_within_a_cluster(connect: Connect) -> None:
    """The request for what a node holds carries the name too."""
    node, client = [await in_cluster(connect, "prod") for _ in "12"]
    await node.subscribe([1], echo)
    data = bytes(300_000)
    for _ in range(2):
        assert await client.request(clstr.Envelope(shard=1, type="large", data=data)) == data
    assert node.stats().foreign_requests == 0


async def test_a_name_in_the_url_or_as_a_keyword_is_joined() -> None:
    for url, name in (("memory://names?cluster=prod", None), ("memory://names?cluster=no", "prod")):
        async with clstr.connect(url, cluster=name) as transport:
            assert isinstance(transport, Engine)
            assert transport.cluster == "prod"


@pytest.mark.parametrize("name", ["", "a b", "x" * 129])
def test_a_malformed_name_is_refused_at_the_call(name: str) -> None:
    with pytest.raises(ValueError, match="cluster must be 1 to 128"):
        _ = clstr.connect("memory://names", cluster=name)


async def test_a_transport_that_tells_clusters_apart_by_itself_is_told_the_name() -> None:
    """ZeroMQ peers of another cluster are refused as they connect, however the name was given."""
    async with clstr.connect("zmq://?bind=tcp://127.0.0.1:*", cluster="prod") as seed:
        assert isinstance(seed, Engine)
        address = seed.link.me.inbox.address  # type: ignore[attr-defined]  # ZeroMQ's
        async with clstr.connect(f"zmq://{address.removeprefix('tcp://')}?cluster=prod"):
            pass
        with pytest.raises(clstr.ClstrError, match="cluster"):
            await clstr.connect(f"zmq://{address.removeprefix('tcp://')}", cluster="staging")
