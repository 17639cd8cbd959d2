"""
A handler per key: made by the key's first message, kept while it is used, closed when another needs its place.

    python docs/examples/per_key_handlers.py [URL]

It prints:

    open north
    north: 1 request
    north: 2 requests
    open south
    south: 1 request
    close north
    open west
    west: 1 request
    close south
    close west
"""

import asyncio
import sys

import clstr

SHARDS = range(8)


class Tenant:
    """What one tenant's messages share."""

    def __init__(self, name: str) -> None:
        """Open what a tenant needs: a file, a connection, a cache."""
        self.name = name
        self.requests = 0
        print("open", name)

    async def __call__(self, envelope: clstr.Envelope) -> bytes:
        """Answer a message. Several of one tenant may run at once: actors are for those that must not."""
        self.requests += 1
        return f"{self.name}: {self.requests} request{'s' * (self.requests > 1)}".encode()

    async def aclose(self) -> None:
        """Close it again: the handler calls this when the tenant has been idle, or is in the way."""
        print("close", self.name)


async def main(url: str) -> None:
    """Serve three tenants with room for two; one that is idle for 60 seconds would make room by itself."""
    async with clstr.connect(url) as transport, clstr.KeyHandler(Tenant, cache_size=2, idle_after=60.0) as handler:
        node = clstr.Node(transport, handler, shards=SHARDS)
        async with node:
            client = clstr.Client(transport, num_shards=len(SHARDS))
            for tenant in ("north", "north", "south", "west"):
                print((await client.request_key(tenant, "Ping")).decode())
            await node.release([clstr.shard_for_key("south", len(SHARDS))])  # its handlers are closed on return


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or ["memory://"]))
