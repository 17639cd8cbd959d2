"""What type checkers infer: read by mypy and pyright, never run."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar, assert_type

import attrs
import msgspec
import pydantic

from clstr._client.client import Client
from clstr._client.request import Request
from clstr._client.scoped_client import ScopedClient
from clstr._messages.message import Message
from clstr._messages.node_info import NodeInfo

T = TypeVar("T")


class User(msgspec.Struct):
    id: str


class StructMessage(msgspec.Struct, Message[User], frozen=True):
    id: str


class StructMessageLast(Message[User], msgspec.Struct):
    id: str


@dataclasses.dataclass(frozen=True, slots=True)
class DataclassMessage(Message[User]):
    id: str


@attrs.frozen
class AttrsMessage(Message[User]):
    id: str


class PydanticMessage(pydantic.BaseModel, Message[User]):
    id: str


class ListMessage(msgspec.Struct, Message[list[User]]):
    pass


class OptionalMessage(msgspec.Struct, Message["User | None"]):
    pass


class Base(msgspec.Struct, Message[T], Generic[T]):
    id: str


class Derived(Base[User]):
    pass


class Untyped(msgspec.Struct):
    id: str


async def the_reply_type_of_each_family_is_inferred(scoped: ScopedClient) -> None:
    assert_type(await scoped.request(StructMessage("1")), User)
    assert_type(await scoped.request(StructMessageLast("1")), User)
    assert_type(await scoped.request(DataclassMessage("1")), User)
    assert_type(await scoped.request(AttrsMessage("1")), User)
    assert_type(await scoped.request(PydanticMessage(id="1")), User)


async def it_may_be_any_type_and_be_inherited(scoped: ScopedClient) -> None:
    assert_type(await scoped.request(ListMessage()), list[User])
    assert_type(await scoped.request(OptionalMessage()), User | None)
    assert_type(await scoped.request(Derived("1")), User)
    assert_type(await scoped.request(Base[int]("1")), int)


async def options_do_not_change_it(client: Client) -> None:
    scoped = client.key("a", headers={"a": "1"}, ttl=1, timeout=1.5)
    assert_type(await scoped.request(StructMessage("1"), headers={"a": "1"}, ttl=2.0, timeout=1), User)
    assert_type(await client.shard(5).request(StructMessage("1")), User)


async def it_may_be_given(scoped: ScopedClient) -> None:
    assert_type(await scoped.request(Untyped("1"), reply=User), User)
    assert_type(await scoped.request(Untyped("1"), reply=bytes), bytes)
    assert_type(await scoped.request(StructMessage("1"), reply=bytes), bytes)
    assert_type(await scoped.request(Untyped("1"), reply=list[User]), list[User])


async def a_request_has_its_own(scoped: ScopedClient) -> None:
    get_user = Request(scoped, Untyped, User)
    assert_type(get_user, Request[Untyped, User])
    assert_type(await get_user(Untyped("1"), ttl=1.0), User)


async def the_raw_methods_speak_bytes(client: Client) -> None:
    assert_type(await client.request_key("a", "Get", b"1"), bytes)
    assert_type(await client.request_shard(5, "Get"), bytes)
    assert_type(await client.key("a").get_node_info(), NodeInfo)


def give_any(value: Any) -> Any:
    """What is not typed stays so."""
    return value


async def an_untyped_reply_is_any(scoped: ScopedClient) -> None:
    assert_type(await scoped.request(Untyped("1"), reply=give_any(User)), Any)
