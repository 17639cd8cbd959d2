"""`clstr._client.scoped_client`: typed messages to one key or shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import msgspec
import pydantic
import pytest

from clstr._client.client import Client
from clstr._client.scoped_client import ScopedClient
from clstr._messages.envelope import Envelope
from clstr._messages.message import Message
from clstr._messages.node_info import NodeInfo
from clstr.abc import Handler, Transport
from clstr.errors import HandlerError, InvalidReplyError, ReservedHeaderError

Sent = list[tuple[Envelope, float]]
Serve = Callable[[Handler], None]


class User(msgspec.Struct):
    id: str


class PydanticUser(pydantic.BaseModel):
    id: str


class GetUser(msgspec.Struct, Message[User]):
    id: str


@dataclasses.dataclass
class DataclassGetUser(Message[User]):
    id: str
    message_type: ClassVar[str] = "GetUser"


@attrs.frozen
class AttrsGetUser(Message[User]):
    id: str
    message_type: ClassVar[str] = "GetUser"


class PydanticGetUser(pydantic.BaseModel, Message[PydanticUser]):
    message_type: ClassVar[str] = "GetUser"
    id: str


class Delete(msgspec.Struct, Message[None]):
    id: str


class Untyped(msgspec.Struct):
    id: str


async def same(envelope: Envelope) -> bytes:
    return envelope.data


def answering(reply: bytes) -> Handler:
    async def handler(envelope: Envelope) -> bytes:
        return reply

    return handler


@pytest.fixture
def scoped(transport: Transport, serve: Serve) -> ScopedClient:
    serve(same)
    return Client(transport, num_shards=64, headers={"a": "1"}).key("user-123", headers={"b": "2"}, ttl=2.0)


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (GetUser("1"), User("1")),
        (DataclassGetUser("1"), User("1")),
        (AttrsGetUser("1"), User("1")),
        (PydanticGetUser(id="1"), PydanticUser(id="1")),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_request_is_sent_and_answered_by_type(
    scoped: ScopedClient, sent: Sent, message: Message[object], reply: object
) -> None:
    assert await scoped.request(message) == reply
    envelope, timeout = sent[0]
    assert (envelope.type, envelope.data, envelope.shard, envelope.key) == ("GetUser", b'{"id":"1"}', 7, "user-123")
    assert (envelope.headers["a"], envelope.headers["b"], envelope.ttl_ms, timeout) == ("1", "2", 2000, 5.0)


async def test_a_call_may_have_its_own_options(scoped: ScopedClient, sent: Sent) -> None:
    await scoped.request(GetUser("1"), headers={"b": "3"}, ttl=4.0, timeout=6.0)
    await scoped.notify(GetUser("1"), headers={"b": "3"}, ttl=4.0, timeout=6.0)
    for envelope, timeout in sent:
        assert envelope.headers == {"a": "1", "b": "3", "x-clstr-key": "user-123"}
        assert (envelope.ttl_ms, timeout) == (4000, 6.0)


async def test_a_message_without_a_reply_type_takes_one(scoped: ScopedClient) -> None:
    assert await scoped.request(Untyped("1"), reply=User) == User("1")
    assert await scoped.request(Untyped("1"), reply=dict[str, str]) == {"id": "1"}
    assert await scoped.request(Untyped("1"), reply=User | None) == User("1")


async def test_a_given_reply_type_beats_that_of_the_message(scoped: ScopedClient) -> None:
    assert await scoped.request(GetUser("1"), reply=bytes) == b'{"id":"1"}'
    assert await scoped.request(GetUser("1"), reply=PydanticUser) == PydanticUser(id="1")


async def test_without_a_reply_type_nothing_is_sent(scoped: ScopedClient, sent: Sent) -> None:
    message: Any = Untyped("1")
    with pytest.raises(TypeError, match=r"reply to Untyped is not known.*clstr\.Message\[ReplyType\].*reply=ReplyType"):
        await scoped.request(message)
    assert sent == []


@pytest.mark.parametrize("message", [{"id": "1"}, b"raw", "text", None], ids=repr)
async def test_what_is_no_message_is_not_sent(scoped: ScopedClient, sent: Sent, message: object) -> None:
    with pytest.raises(TypeError, match="request_key"):
        await scoped.request(message, reply=bytes)
    with pytest.raises(TypeError, match="notify_key"):
        await scoped.notify(message)
    assert sent == []


async def test_an_object_without_encoding_is_not_sent(scoped: ScopedClient, sent: Sent) -> None:
    class Plain(Message[User]):
        pass

    with pytest.raises(TypeError, match="Plain has no encoding"):
        await scoped.request(Plain())
    with pytest.raises(TypeError, match="Plain has no encoding"):
        await scoped.notify(Plain())
    with pytest.raises(TypeError, match="GetUser is a class"):
        await scoped.notify(GetUser)
    assert sent == []


async def test_a_reply_type_without_decoding_is_not_asked_for(scoped: ScopedClient, sent: Sent) -> None:
    with pytest.raises(TypeError, match="object has no decoding"):
        await scoped.request(Untyped("1"), reply=object)
    assert sent == []


@pytest.mark.parametrize("reply", [b"", b"null", b"{}", b'{"id":1}', b"nonsense"], ids=repr)
async def test_a_reply_of_another_type_is_invalid(scoped: ScopedClient, serve: Serve, reply: bytes) -> None:
    serve(answering(reply))
    with pytest.raises(InvalidReplyError) as caught:
        await scoped.request(GetUser("1"))
    assert caught.value.maybe_executed


@pytest.mark.parametrize("reply", [b"", b"null"], ids=repr)
async def test_a_message_whose_reply_is_none_takes_nothing(scoped: ScopedClient, serve: Serve, reply: bytes) -> None:
    serve(answering(reply))
    result: object = await scoped.request(Delete("1"), reply=type(None))
    assert result is None


async def test_a_message_whose_reply_is_none_takes_nothing_else(scoped: ScopedClient, serve: Serve) -> None:
    serve(answering(b"1"))
    with pytest.raises(InvalidReplyError, match="not a NoneType"):
        await scoped.request(Delete("1"), reply=type(None))


async def test_a_handlers_error_reaches_the_caller(scoped: ScopedClient, serve: Serve) -> None:
    async def fail(envelope: Envelope) -> bytes:
        raise ValueError("no")

    serve(fail)
    with pytest.raises(HandlerError, match="ValueError: no"):
        await scoped.request(GetUser("1"))


async def test_wrong_options_send_nothing(scoped: ScopedClient, sent: Sent) -> None:
    for send in (scoped.request, scoped.notify):
        with pytest.raises(ReservedHeaderError):
            await send(GetUser("1"), headers={"X-clstr-a": "1"})
        with pytest.raises(ValueError, match="ttl"):
            await send(GetUser("1"), ttl=-1)
    with pytest.raises(ValueError, match="timeout"):
        await scoped.get_node_info(timeout=0)
    assert sent == []


async def test_a_scoped_client_is_not_changed_by_its_calls(scoped: ScopedClient, sent: Sent) -> None:
    await scoped.notify(GetUser("1"), headers={"c": "3"})
    await scoped.notify(GetUser("1"))
    assert "c" not in sent[1][0].headers


async def test_node_info_is_asked_for_as_go_asks(scoped: ScopedClient, sent: Sent, serve: Serve) -> None:
    serve(answering(b'{"node_id":"node-1","shards":[0,5]}'))
    assert await scoped.get_node_info(headers={"b": "3"}, ttl=1.0, timeout=1.0) == NodeInfo("node-1", [0, 5])
    envelope, timeout = sent[0]
    assert (envelope.type, envelope.data, envelope.ttl_ms, timeout) == ("clstr.node.info", b"{}", 1000, 1.0)
    assert envelope.headers["b"] == "3"


def test_its_repr_names_shard_and_key(scoped: ScopedClient) -> None:
    assert repr(scoped) == "ScopedClient(shard=7, key='user-123')"
