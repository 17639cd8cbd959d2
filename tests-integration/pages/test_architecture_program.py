"""The program that shows the API, as the documentation has it."""

from __future__ import annotations

import msgspec

import clstr


class User(msgspec.Struct):
    id: str
    name: str


class GetUser(msgspec.Struct, clstr.Message[User]):
    id: str


async def handler(envelope: clstr.Envelope) -> bytes:
    request = msgspec.json.decode(envelope.data, type=GetUser)
    return msgspec.json.encode(User(request.id, f"User {request.id}"))


async def test_the_program_that_shows_the_api_runs() -> None:
    nodes = ["node-1", "node-2"]
    async with (
        clstr.connect("memory://") as transport,
        clstr.Node(transport, handler, node_id="node-1", nodes=nodes, num_shards=64),
        clstr.Node(transport, handler, node_id="node-2", shards=clstr.shards_for_node("node-2", nodes, 64)),
    ):
        client = clstr.Client(transport, num_shards=64, seed="", headers={"trace-id": "abc"}, timeout=5.0)
        raw = await client.request_key("user-123", "GetUser", b'{"id":"123"}')
        assert raw == b'{"id":"123","name":"User 123"}'
        user = await client.key("user-123").request(GetUser("123"), ttl=2.0)
        assert user == User("123", "User 123")
        await client.shard(5).notify(GetUser("123"))
        get_user = clstr.Request(client.key("user-123"), GetUser, User)
        assert await get_user(GetUser("123")) == user
        info = await client.key("user-123").get_node_info()
        assert info.node_id in nodes
        assert clstr.shard_for_key("user-123", 64) in info.shards


async def test_connect_can_be_awaited_too() -> None:
    transport = await clstr.connect("memory://")
    await transport.aclose()
