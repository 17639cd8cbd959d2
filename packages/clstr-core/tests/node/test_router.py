"""Typed handlers: from the envelope to the function for its type, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import msgspec
import pytest

from clstr._actors.actor import Actor, handles
from clstr._actors.actor_handler import ActorHandler
from clstr._context import Current, is_refusal_of
from clstr._messages.envelope import Envelope
from clstr._messages.message import Message
from clstr._node.route import Context
from clstr._node.router import Router
from clstr.errors import DrainingError, InvalidEnvelopeError, StateNotStoredError, UnknownMessageError

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


def test_a_type_has_one_function(router: Router) -> None:
    async def another(_message: Raw, _context: Context) -> bytes:
        return b""

    with pytest.raises(ValueError, match="messages of type 'Raw' have a handler already"):
        router.on(Raw, reply=bytes)(another)


# Several handlers in one router.


class Kind:
    """A handler that knows its types, and that keeps state."""

    def __init__(self, *message_types: str, error: Exception | None = None) -> None:
        self.message_types = message_types
        self.error = error
        self.released: list[frozenset[int]] = []

    async def __call__(self, message: Envelope) -> bytes:
        return f"{message.type} by {self.message_types[0]}".encode()

    async def release_shards(self, shards: frozenset[int]) -> None:
        self.released.append(shards)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


class Account(Actor):
    @handles(GetUser)
    async def get(self, message: GetUser, _context: Context) -> User:
        return User(f"{self.key} {message.id}")


async def test_an_included_handler_answers_the_messages_that_it_knows(router: Router, handling: Handling) -> None:
    router.include(Kind("A", "B"))
    outer = Router()
    outer.include(router)
    for each in (router, outer):
        assert await each(envelope("B")) == b"B by A"
        assert await each(envelope("Raw")) == b"7"
        assert each.message_types == {"A", "B", "Forget", "GetUser", "Raw"}
        with handling(envelope=envelope("Nope")), pytest.raises(UnknownMessageError) as caught:
            await each(envelope("Nope"))
        assert caught.value.known == "A, B, Forget, GetUser, Raw"


async def test_actors_of_several_kinds_share_a_router() -> None:
    router = Router()
    router.include(ActorHandler(Account))
    router.include(Kind("Audit"))
    keyed = envelope("GetUser", headers={"x-clstr-key": "ada"})
    assert await router(keyed) == b'{"id":"ada 7"}'
    assert await router(envelope("Audit")) == b"Audit by Audit"


def test_a_type_belongs_to_one_of_them(router: Router) -> None:
    with pytest.raises(ValueError, match="messages of type 'Raw' have a handler already"):
        router.include(Kind("A", "Raw"))
    assert "A" not in router.message_types
    router.include(Kind("A"))
    with pytest.raises(ValueError, match="messages of type 'A' have a handler already"):
        router.include(Kind("A"))
    with pytest.raises(TypeError, match="annotate what it returns"):
        router.include(ActorHandler(lambda _key: Account()))
    router = Router()
    router.include(ActorHandler(lambda _key: Account(), actor=Account))
    assert router.message_types == frozenset(Account.routes)


async def test_a_release_is_told_to_the_fallback_and_to_all_that_are_included(router: Router) -> None:
    kinds = [Kind("A"), Kind("B"), Kind("fallback")]
    await router.release_shards([1])  # nobody to tell
    for kind in kinds[:2]:
        router.include(kind)
    router.fallback(kinds[2])
    outer = Router()
    outer.include(router)
    await outer.release_shards([1, 2])
    assert [kind.released for kind in kinds] == [[frozenset({1, 2})]] * 3


async def test_a_fresh_router_has_fresh_handlers_of_those_that_keep_state(router: Router) -> None:
    actors = ActorHandler(Account)
    outer = Router()
    outer.include(actors)
    outer.fallback(router)
    fresh = outer.fresh()
    keyed = envelope("GetUser", headers={"x-clstr-key": "ada"})
    assert await fresh(envelope("Raw")) == b"7"
    assert await fresh(keyed) == b'{"id":"ada 7"}'
    assert len(actors) == 0
    assert fresh.message_types == outer.message_types
    fresh.abort()
    with pytest.raises(DrainingError):
        await fresh(keyed)
    assert await outer(keyed) == b'{"id":"ada 7"}'
    await outer.release_shards([keyed.shard])
    without_fresh = Router()
    without_fresh.fallback(Kind("A"))
    with pytest.raises(TypeError, match="Kind keeps state"):
        without_fresh.fresh()


async def test_the_keys_that_several_could_not_store_are_one_error() -> None:
    router = Router()
    for kind in (Kind("A", error=StateNotStoredError(["b", "a"])), Kind("B", error=StateNotStoredError(["c", "a"]))):
        router.include(kind)
    with pytest.raises(StateNotStoredError) as caught:
        await router.release_shards([1])
    assert caught.value.keys == ("a", "b", "c")


async def test_one_that_fails_to_release_keeps_no_other_from_it() -> None:
    kinds = [Kind("A", error=ValueError("a")), Kind("B"), Kind("C", error=KeyError("c"))]
    router = Router()
    for kind in kinds[:2]:
        router.include(kind)
    with pytest.raises(ValueError, match="a"):
        await router.release_shards([1])
    router.include(kinds[2])
    with pytest.raises(ExceptionGroup) as caught:
        await router.release_shards([1])
    assert [str(error) for error in caught.value.exceptions] == ["a", "'c'"]
    assert [len(kind.released) for kind in kinds] == [2, 2, 1]
