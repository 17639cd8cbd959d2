"""What type checkers refuse: each line's error is expected, and an expected one that is missing is an error too."""

from __future__ import annotations

import msgspec

from clstr._actors.actor import Actor, handles
from clstr._client.client import Client
from clstr._client.request import Request
from clstr._client.scoped_client import ScopedClient
from clstr._messages.message import Message
from clstr._node.route import Context
from clstr._node.router import Router


class User(msgspec.Struct):
    id: str


class GetUser(msgspec.Struct, Message[User]):
    id: str


class Untyped(msgspec.Struct):
    id: str


async def a_reply_is_of_its_type_alone(scoped: ScopedClient) -> None:
    number: int = await scoped.request(GetUser("1"))  # type: ignore[arg-type]
    text: str = await scoped.request(Untyped("1"), reply=User)  # type: ignore[arg-type]
    assert number
    assert text


async def a_message_without_a_reply_type_needs_one(scoped: ScopedClient) -> None:
    await scoped.request(Untyped("1"))  # type: ignore[call-overload]
    await scoped.request({"id": "1"})  # type: ignore[call-overload]


async def a_reply_type_is_a_type(scoped: ScopedClient) -> None:
    await scoped.request(Untyped("1"), reply="User")  # type: ignore[call-overload]


async def a_request_takes_its_own_messages(scoped: ScopedClient) -> None:
    get_user = Request(scoped, GetUser, User)
    await get_user(Untyped("1"))  # type: ignore[arg-type]
    number: int = await get_user(GetUser("1"))  # type: ignore[assignment]
    assert number


async def the_raw_methods_take_bytes(client: Client) -> None:
    await client.request_key("a", "Get", "text")  # type: ignore[arg-type]
    await client.request_key("a", GetUser("1"))  # type: ignore[arg-type]
    await client.request_shard("a", "Get")  # type: ignore[arg-type]


def options_are_named(client: Client) -> None:
    client.key("a", {"a": "1"})  # type: ignore[call-arg]
    client.key("a", headers={"a": 1})  # type: ignore[dict-item]
    Client(client, num_shards=64)  # type: ignore[arg-type]


router = Router()


@router.on(GetUser)  # type: ignore[arg-type]
async def answers_with_another_type(message: GetUser, context: Context) -> int:
    return len(message.id) + context.shard


@router.on(Untyped)  # type: ignore[arg-type]
async def answers_what_nobody_knows(message: Untyped, context: Context) -> bytes:
    return message.id.encode() + (context.key or "").encode()


class Account(Actor):
    @handles(GetUser)  # type: ignore[arg-type]
    async def answers_with_another_type(self, message: GetUser, context: Context) -> int:
        return len(message.id) + context.shard

    @handles(Untyped)  # type: ignore[arg-type]
    async def answers_what_nobody_knows(self, message: Untyped, context: Context) -> bytes:
        return message.id.encode() + (context.key or "").encode()

    @handles(Untyped, reply=User)  # type: ignore[arg-type]
    async def answers_with_another_type_than_it_says(self, message: Untyped, context: Context) -> bytes:
        return message.id.encode() + (context.key or "").encode()
