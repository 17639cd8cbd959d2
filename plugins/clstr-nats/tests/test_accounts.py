"""Nodes in one NATS account, clients in another: a service that is exported and imported."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import nats
import pytest

import clstr
from clstr import Envelope
from clstr.errors import NoShardSubscriberError, OverloadedError
from clstr_testing import Server, nats_server

Connect = Callable[..., Awaitable[clstr.Transport]]
codecs = pytest.mark.parametrize("codec", ["json", "msgpack"])
# What the client's prefix is, by how the service is imported.
IMPORTS = {
    "as it is": ("clstr", '{service: {account: PROV, subject: "clstr.shard.*"}}'),
    "shared": ("clstr", '{service: {account: PROV, subject: "clstr.shard.*"}, share: true}'),
    "mapped": ("prov.clstr", '{service: {account: PROV, subject: "clstr.shard.*"}, to: "prov.clstr.shard.*"}'),
}
imports = pytest.mark.parametrize(("prefix", "service"), IMPORTS.values(), ids=IMPORTS)


def config(service: str) -> str:
    return f"""accounts {{
  PROV: {{ users: [{{user: node, password: p}}], exports: [{{service: "clstr.shard.*"}}] }}
  CONS: {{ users: [{{user: client, password: p}}], imports: [{service}] }}
}}"""


async def pair(connect: Connect, server: Server, codec: str, prefix: str) -> tuple[clstr.Transport, clstr.Transport]:
    node = await connect(server.port, user="node:p", query=f"?codec={codec}", max_concurrent=1, max_queue=0)
    return node, await connect(server.port, user="client:p", query=f"?codec={codec}&prefix={prefix}")


@codecs
@imports
async def test_a_request_to_another_account_is_answered(
    connect: Connect, codec: str, prefix: str, service: str
) -> None:
    """The envelope's own address means nothing in the node's account; the native one is mapped by the server."""
    async with nats_server(config=config(service)) as server:
        node, client = await pair(connect, server, codec, prefix)
        await node.subscribe([3], _echo)
        async with asyncio.timeout(5):
            for n in range(20):
                assert await client.request(Envelope(shard=3, type="t", data=b"%d" % n), timeout=60) == b"%d" % n


@codecs
@imports
async def test_an_unowned_shard_of_another_account_is_refused_at_once(
    connect: Connect, codec: str, prefix: str, service: str
) -> None:
    async with nats_server(config=config(service)) as server:
        node, client = await pair(connect, server, codec, prefix)
        await node.subscribe([3], _echo)
        async with asyncio.timeout(5):
            for send in (client.request, client.notify):
                with pytest.raises(NoShardSubscriberError):
                    await send(Envelope(shard=4, type="t"), timeout=60)


@codecs
@imports
async def test_a_notify_and_a_refusal_pass_between_accounts(
    connect: Connect, codec: str, prefix: str, service: str
) -> None:
    async with nats_server(config=config(service)) as server:
        node, client = await pair(connect, server, codec, prefix)
        runs, may_end = asyncio.Event(), asyncio.Event()

        async def handler(_: Envelope) -> bytes:
            runs.set()
            await may_end.wait()
            return b""

        await node.subscribe([3], handler)
        async with asyncio.timeout(5):
            await client.notify(Envelope(shard=3, type="t"), timeout=60)
            await runs.wait()
            with pytest.raises(OverloadedError):
                await client.request(Envelope(shard=3, type="t"), timeout=60)
        may_end.set()


async def test_a_forged_address_beside_a_native_one_is_not_used(connect: Connect) -> None:
    """An answer goes to who asked, not to an inbox that the message names."""
    async with nats_server() as server:
        node = await connect(server.port)
        await node.subscribe([1], _echo)
        stranger = await nats.connect(server.url)
        victim = await stranger.subscribe("_INBOX.victim")
        body = b'{"shard":1,"type":"t","data":"","reply_to":"_INBOX.victim"}'
        await stranger.request("clstr.shard.1", body, timeout=5)
        await stranger.flush()
        assert victim.pending_msgs == 0
        await stranger.close()


async def _echo(envelope: Envelope) -> bytes:
    return envelope.data
