"""clstr with a handler of envelopes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import clstr
from bench.contender import Ask, Contender, Load, Prepare

PATIENCE = 60.0  # seconds in which a connection must be there: several processes start at once, on few cores


class Raw(Contender):
    """Echoes bytes."""

    def handler(self) -> clstr.Handler:
        """Return what a node runs."""

        async def echo(envelope: clstr.Envelope) -> bytes:
            self.handled += 1
            return envelope.data

        return echo

    @asynccontextmanager
    async def serve(self, node: int) -> AsyncIterator[None]:
        """Own a node's share of the shards."""
        names = [f"node-{number}" for number in range(self.place.nodes)]
        async with (
            clstr.connect(self.url(node), connect_timeout=PATIENCE) as transport,
            clstr.Node(transport, self.handler(), node_id=names[node], nodes=names, num_shards=self.place.shards),
        ):
            yield

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Prepare]:
        """Connect, and reach every node."""
        async with clstr.connect(self.url(), connect_timeout=PATIENCE) as transport:
            client = clstr.Client(transport, num_shards=self.place.shards, retry_undelivered=True)
            for shard in range(self.place.shards):
                await client.shard(shard).get_node_info()
            yield lambda load: self.ask(clstr.Client(transport, num_shards=self.place.shards), load)

    def ask(self, client: clstr.Client, load: Load) -> Ask:
        """Send what ``load`` says by key."""
        keys, payload = [f"key-{number}" for number in range(load.keys)], load.payload

        async def request(number: int) -> bytes:
            return await client.request_key(keys[number], "Echo", payload)

        async def notify(number: int) -> None:
            await client.notify_key(keys[number], "Echo", payload)

        return notify if load.oneway else request

    def url(self, node: int | None = None) -> str:
        """Return the URL for a node, or for the client."""
        place = self.place
        if not place.url:  # peers find each other by themselves
            return self._peer_url(node)
        return f"{place.url}?{place.query}" if place.query else place.url

    def _peer_url(self, node: int | None) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.place.ports)
        bind = [] if node is None else [f"bind=tcp://127.0.0.1:{self.place.ports[node]}"]
        query = "&".join([*bind, *filter(None, [self.place.query])])
        return f"zmq://{hosts}?{query}" if query else f"zmq://{hosts}"
