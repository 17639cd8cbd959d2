"""`clstr._client.request`: a request as a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
import pytest

from clstr._client.client import Client
from clstr._client.request import Request
from clstr._client.scoped_client import ScopedClient
from clstr._messages.envelope import Envelope
from clstr.abc import Handler, Transport
from clstr.errors import InvalidReplyError

Sent = list[tuple[Envelope, float]]
Serve = Callable[[Handler], None]
T = TypeVar("T")


class GetUser(msgspec.Struct):
    id: str


class User(msgspec.Struct):
    id: str
    name: str


class Page(msgspec.Struct, Generic[T]):
    of: T


async def answer(envelope: Envelope) -> bytes:
    return b'{"id":"123","name":"User 123"}'


@pytest.fixture
def scoped(transport: Transport, serve: Serve) -> ScopedClient:
    serve(answer)
    return Client(transport, num_shards=64).key("user-123")


async def test_a_request_is_a_function_of_a_message(scoped: ScopedClient, sent: Sent) -> None:
    get_user = Request(scoped, GetUser, User)
    assert await get_user(GetUser("123")) == User("123", "User 123")
    assert (sent[0][0].type, sent[0][0].data, sent[0][0].shard) == ("GetUser", b'{"id":"123"}', 7)


async def test_it_takes_headers_ttl_and_timeout(scoped: ScopedClient, sent: Sent) -> None:
    await Request(scoped, GetUser, User)(GetUser("123"), headers={"a": "1"}, ttl=2.0, timeout=3.0)
    envelope, timeout = sent[0]
    assert (envelope.headers["a"], envelope.ttl_ms, timeout) == ("1", 2000, 3.0)


async def test_bytes_are_the_reply_as_it_is(scoped: ScopedClient) -> None:
    assert await Request(scoped, GetUser, bytes)(GetUser("123")) == await answer(Envelope(shard=0, type=""))


async def test_another_reply_is_invalid(scoped: ScopedClient) -> None:
    with pytest.raises(InvalidReplyError):
        await Request(scoped, GetUser, int)(GetUser("123"))


async def test_a_message_of_another_class_is_not_sent(scoped: ScopedClient, sent: Sent) -> None:
    get_user: Any = Request(scoped, GetUser, User)
    with pytest.raises(TypeError, match="message must be a GetUser, not a User"):
        await get_user(User("123", ""))
    assert sent == []


async def test_a_subclass_is_sent_under_its_own_name(scoped: ScopedClient, sent: Sent) -> None:
    class GetSpecialUser(GetUser):
        pass

    await Request(scoped, GetUser, User)(GetSpecialUser("123"))
    assert sent[0][0].type == "GetSpecialUser"


async def test_a_generic_class_may_name_its_argument(scoped: ScopedClient, sent: Sent) -> None:
    await Request(scoped, Page[int], User)(Page(1))
    assert (sent[0][0].type, sent[0][0].data) == ("Page", b'{"of":1}')


@pytest.mark.parametrize(
    ("message", "reply", "match"),
    [
        (GetUser("1"), User, "message must be the class of the messages"),
        (dict, User, "no name on the wire"),
        (GetUser, object, "object has no decoding"),
    ],
    ids=["an object", "a built-in class", "an unknown reply"],
)
def test_wrong_types_are_found_when_it_is_made(scoped: ScopedClient, message: Any, reply: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        Request(scoped, message, reply)


def test_its_repr_names_both_types(scoped: ScopedClient) -> None:
    assert repr(Request(scoped, GetUser, User)) == ("Request(ScopedClient(shard=7, key='user-123'), GetUser, User)")
