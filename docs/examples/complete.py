"""
The specification's complete example: two nodes, a handler per key, a typed request.

    python docs/examples/complete.py [URL]

It prints:

    User 123
"""

import asyncio
import sys

import msgspec

import clstr

NODES = ["node-1", "node-2"]
NUM_SHARDS = 64


class User(msgspec.Struct):
    """The reply."""

    id: str
    name: str


class GetUser(msgspec.Struct, clstr.Message[User]):
    """The request."""

    id: str


def create(key: str) -> clstr.Handler:
    """Return the handler of one key: what it keeps is that key's alone."""

    async def handler(envelope: clstr.Envelope) -> bytes:
        request = msgspec.json.decode(envelope.data, type=GetUser)
        return msgspec.json.encode(User(request.id, f"User {request.id}"))

    return handler


async def main(url: str) -> None:
    """Start the nodes and ask."""
    async with clstr.connect(url) as transport, clstr.KeyHandler(create) as handler:
        nodes = [
            clstr.Node(transport, handler, node_id=node_id, nodes=NODES, num_shards=NUM_SHARDS) for node_id in NODES
        ]
        async with nodes[0], nodes[1]:
            client = clstr.Client(transport, num_shards=NUM_SHARDS)
            user = await client.key("user-123").request(GetUser("123"))
            print(user.name)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or ["memory://"]))
