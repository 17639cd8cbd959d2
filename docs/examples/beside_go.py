"""
One cluster with Go, without Go: recorded bytes of clstr-go's client and node, played on a real NATS server.

    python docs/examples/beside_go.py [URL]

Without a URL it starts a server, from a wheel, and stops it at the end. It prints:

    Go's client asks: {"shard":7,"type":"main.GetUser","data":"eyJpZCI6IjEyMyJ9","reply_to":"_INBOX.abcdefghijklmnopqrstuv","headers":{"x-clstr-key":"user-123"}}
    our node answers: {"v":1,"data":"eyJpZCI6IjEyMyIsIm5hbWUiOiJVc2VyIDEyMyJ9"}
    our client asks: shard 8, type main.GetUser, data {"id":"8"}
    Go's node answers: {"data":"eyJpZCI6IjEifQ=="}
    User(id='1', name='')
    our client asks: shard 8, type main.GetUser, data {"id":"8"}
    Go's node answers: {"err":"handler exceeded deadline"}
    HandlerTimeoutError, maybe_executed=True
"""  # noqa: E501 -- bytes on a wire have no line breaks

import asyncio
import base64
import json
import sys
from contextlib import AsyncExitStack
from typing import ClassVar

import msgspec
import nats
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

import clstr
import clstr_testing

NUM_SHARDS = 64
OURS, GOS = 7, 8  # a node of Go and one of ours must never hold the same shard

# What clstr-go v0.33.1 puts on the wire.
GO_REQUEST = (
    b'{"shard":7,"type":"main.GetUser","data":"eyJpZCI6IjEyMyJ9","reply_to":"_INBOX.abcdefghijklmnopqrstuv",'
    b'"headers":{"x-clstr-key":"user-123"}}'
)
GO_REPLIES = [b'{"data":"eyJpZCI6IjEifQ=="}', b'{"err":"handler exceeded deadline"}']


class User(msgspec.Struct):
    """The reply; the node in Go leaves the name out."""

    id: str
    name: str = ""


class GetUser(msgspec.Struct, clstr.Message[User]):
    """The request. Go names a type by its import path, so ours says that name."""

    message_type: ClassVar[str] = "main.GetUser"
    id: str


router = clstr.Router()


@router.on(GetUser)
async def get_user(message: GetUser, context: clstr.Context) -> User:
    """Answer whoever asks, in Go or in Python."""
    return User(message.id, f"User {message.id}")


async def play_go_client(go: Nats) -> None:
    """Ask as Go's client does: an inbox of its own for each request, named in the envelope."""
    print("Go's client asks:", GO_REQUEST.decode())
    answers = await go.subscribe(json.loads(GO_REQUEST)["reply_to"])
    await go.publish(f"clstr.shard.{OURS}", GO_REQUEST)
    answer = await answers.next_msg(timeout=10)
    print("our node answers:", answer.data.decode())


async def play_go_node(go: Nats) -> None:
    """Answer as Go's node does: to the address in the envelope, and text for an error."""
    replies = iter(GO_REPLIES)

    async def handle(message: Msg) -> None:
        request, reply = json.loads(message.data), next(replies)
        data = base64.b64decode(request["data"]).decode()
        print(f"our client asks: shard {request['shard']}, type {request['type']}, data {data}")
        print("Go's node answers:", reply.decode())
        await go.publish(request["reply_to"], reply)

    await go.subscribe(f"clstr.shard.{GOS}", cb=handle)
    await go.flush()


async def ask_go_node(client: clstr.Client) -> None:
    """Ask Go's node; the second answer is an error."""
    print(await client.shard(GOS).request(GetUser("8")))
    try:
        await client.shard(GOS).request(GetUser("8"))
    except clstr.HandlerTimeoutError as error:
        print(f"{type(error).__name__}, maybe_executed={error.maybe_executed}")


async def main(url: str = "") -> None:
    """Play all four parts."""
    async with AsyncExitStack() as stack:
        url = url or (await stack.enter_async_context(clstr_testing.nats_server())).url
        transport = await stack.enter_async_context(clstr.connect(url))
        go = await nats.connect(url)
        stack.push_async_callback(go.close)
        await stack.enter_async_context(clstr.Node(transport, router, shards=[OURS]))
        await play_go_client(go)
        await play_go_node(go)
        await ask_go_node(clstr.Client(transport, num_shards=NUM_SHARDS))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
