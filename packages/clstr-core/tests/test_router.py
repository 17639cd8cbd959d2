"""Typed handlers: from the envelope to the function for its type, and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import pytest

from clstr._context import Current, is_refusal_of, set_current_node_id
from clstr._envelope import Envelope
from clstr._message import Message
from clstr._router import Context, Router
from clstr.errors import InvalidEnvelopeError, UnknownMessageError

Handling = Callable[..., AbstractContextManager[Current]]


class User(msgspec.Struct):
    id: str


class GetUser(msgspec.Struct, Message[User]):
    id: str


class Forget(msgspec.Struct, Message[None]):
    id: str


class Raw(msgspec.Struct):
    id: str


def envelope(message_type: str, data: bytes = b'{"id":"7"}', headers: Mapping[str, str] | None = None) -> Envelope:
    return Envelope(shard=3, type=message_type, data=data, headers=headers or {})


@pytest.fixture
def router() -> Router:
    router = Router()

    @router.on(GetUser)
    async def get_user(message: GetUser, _context: Context) -> User:
        return User(f"user {message.id}")

    @router.on(Forget)
    async def forget(_message: Forget, _context: Context) -> None:
        return None

    @router.on(Raw, reply=bytes)
    async def raw(message: Raw, _context: Context) -> bytes:
        return message.id.encode()

    return router


@pytest.mark.parametrize(
    ("message_type", "reply"), [("GetUser", b'{"id":"user 7"}'), ("Forget", b"null"), ("Raw", b"7")]
)
async def test_a_message_finds_the_function_for_its_type(router: Router, message_type: str, reply: bytes) -> None:
    assert await router(envelope(message_type)) == reply


async def test_an_unknown_type_is_refused_and_the_known_ones_are_named(router: Router, handling: Handling) -> None:
    message = envelope("Nope")
    with handling(envelope=message) as inside, pytest.raises(UnknownMessageError) as caught:
        await router(message)
    assert (caught.value.message_type, caught.value.known) == ("Nope", "Forget, GetUser, Raw")
    assert is_refusal_of(caught.value, inside)


@pytest.mark.parametrize(("data", "field"), [(b"", "data"), (b"{", "data"), (b'{"id":7}', "data.id")])
async def test_a_payload_that_does_not_fit_is_refused_by_field(
    router: Router, handling: Handling, data: bytes, field: str
) -> None:
    message = envelope("GetUser", data)
    with handling(envelope=message) as inside, pytest.raises(InvalidEnvelopeError) as caught:
        await router(message)
    assert caught.value.field == field
    assert is_refusal_of(caught.value, inside)


async def test_the_fallback_gets_the_envelopes_of_other_types(router: Router) -> None:
    @router.fallback
    async def other(message: Envelope) -> bytes:
        return message.type.encode()

    assert await router(envelope("Nope")) == b"Nope"
    assert await router(envelope("Raw")) == b"7"
    with pytest.raises(ValueError, match="there is a fallback already"):
        router.fallback(other)


def test_a_fallback_must_be_callable(router: Router) -> None:
    with pytest.raises(TypeError, match="fallback must be an async function"):
        router.fallback("no")  # type: ignore[arg-type]  # the mistake that this is about


async def test_the_context_says_what_the_message_carries(handling: Handling, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Context] = []
    router = Router()

    @router.on(Forget)
    async def forget(_message: Forget, context: Context) -> None:
        seen.append(context)
        assert context.time_left() == 2.5
        context.logger.warning("forgotten")

    message = envelope("Forget", headers={"x-clstr-key": "k", "trace-id": "t"})
    with handling(envelope=message, left=2.5):
        set_current_node_id("node-1")
        await router(message)
        set_current_node_id("")
    [context] = seen
    assert (context.key, context.shard, context.node_id) == ("k", 3, "node-1")
    assert context.headers["trace-id"] == "t"
    [record] = caplog.records
    assert (record.name, record.levelno) == ("clstr.handler", logging.WARNING)
    assert vars(record)["clstr_node"] == "node-1"
    assert vars(record)["clstr_shard"] == 3
    assert vars(record)["clstr_type"] == "Forget"


def test_outside_of_a_transport_there_is_no_deadline() -> None:
    assert Context(envelope("t")).time_left() is None


async def async_function(_message: Any, _context: Context) -> bytes:
    return b""


def plain_function(_message: Any, _context: Context) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("message", "reply", "handler", "error", "text"),
    [
        ("GetUser", None, async_function, TypeError, "takes the class of the messages"),
        (Raw, None, async_function, TypeError, "the type of the reply to Raw is not known"),
        (object, bytes, async_function, TypeError, "object"),
        (Raw, bytes, plain_function, TypeError, "the handler of Raw must be an async function"),
    ],
    ids=["no class", "no reply type", "no message", "not async"],
)
def test_a_mistake_at_registration_is_named(
    message: Any, reply: Any, handler: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Router().on(message, reply=reply)(handler)


def test_a_type_has_one_function(router: Router) -> None:
    with pytest.raises(ValueError, match="messages of type 'Raw' have a handler already"):
        router.on(Raw, reply=bytes)(async_function)
