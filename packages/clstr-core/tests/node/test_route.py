"""Functions for messages of one type: what they are told, and which are refused when they are registered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from logging import Logger
from typing import Any, Protocol

import msgspec
import pytest

from clstr._context import Current, set_current_node_id
from clstr._messages.envelope import Envelope
from clstr._messages.message import Message
from clstr._node.route import Context, checked_route

Handling = Callable[..., AbstractContextManager[Current]]


class User(msgspec.Struct):
    id: str


class Special(User):
    is_admin: bool = False


class GetUser(msgspec.Struct, Message[User]):
    id: str


class Forget(msgspec.Struct, Message[None]):
    id: str


class Raw(msgspec.Struct):
    id: str


def envelope(message_type: str, data: bytes = b'{"id":"7"}', headers: Mapping[str, str] | None = None) -> Envelope:
    return Envelope(shard=3, type=message_type, data=data, headers=headers or {})


async def test_the_context_says_what_the_message_carries(handling: Handling, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Context] = []

    async def forget(_message: Forget, context: Context) -> None:
        seen.append(context)
        assert context.time_left() == 2.5
        context.logger.warning("forgotten")

    message = envelope("Forget", headers={"x-clstr-key": "k", "trace-id": "t"})
    with handling(envelope=message, left=2.5):
        set_current_node_id("node-1")
        await checked_route(Forget, None)(forget).answer(message)
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


async def takes_forget(_message: Forget, _context: Context) -> bytes:
    return b""


def plain_function(_message: Any, _context: Context) -> bytes:
    return b""


async def takes_no_context(_message: Any) -> bytes:
    return b""


async def returns_int(_message: Any, _context: Context) -> int:
    return 1


async def returns_user_or_int(_message: Any, _context: Context) -> User | int:
    return 1


@pytest.mark.parametrize(
    ("message", "reply", "handler", "error", "text"),
    [
        ("GetUser", None, async_function, TypeError, "takes the class of the messages"),
        (Raw, None, async_function, TypeError, "the type of the reply to Raw is not known"),
        (object, bytes, async_function, TypeError, "object"),
        (Raw, bytes, plain_function, TypeError, "the handler of Raw must be an async function"),
        (Raw, bytes, takes_forget, TypeError, "takes_forget takes a Forget, which no Raw is"),
        (Raw, bytes, takes_no_context, TypeError, r"takes_no_context must take \(message, context\), not \(_message"),
        (Raw, bytes, returns_int, TypeError, "returns_int returns int, but the reply to Raw is bytes"),
        (GetUser, None, returns_int, TypeError, "returns_int returns int, but the reply to GetUser is User"),
        (GetUser, None, returns_user_or_int, TypeError, "returns_user_or_int returns .*User | int, but the reply"),
        (GetUser, Logger, async_function, TypeError, "Logger has no decoding"),
    ],
    ids=[
        "no class",
        "no reply type",
        "no message",
        "not async",
        "another message",
        "no context",
        "no bytes",
        "another reply",
        "sometimes another reply",
        "undecodable reply",
    ],
)
def test_a_mistake_at_registration_is_named(
    message: Any, reply: Any, handler: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        checked_route(message, reply)(handler)


def test_a_parameter_that_may_get_the_message_is_left_alone() -> None:
    class Local(Raw):
        pass

    class Speaks(Protocol):
        id: str

    async def base(message: Raw, _context: Context) -> bytes:
        return b""

    async def local(message: Local, _context: Context) -> bytes:
        return b""

    async def union(message: Forget | Raw, _context: Context) -> bytes:
        return b""

    async def anything(message: object, _context: Context) -> bytes:
        return b""

    async def protocol(message: Speaks, _context: Context) -> bytes:
        return b""

    async def unknown(message: NoSuchName, _context: Context) -> bytes:  # type: ignore[name-defined]  # noqa: F821 -- as from a block for type checkers
        return b""

    async def several(*_: Any) -> bytes:
        return b""

    async def bare(message, _context):  # type: ignore[no-untyped-def]  # the point
        return b""

    protocol.__annotations__["message"] = Speaks
    for handler in (base, local, union, anything, protocol, unknown, several, bare, async_function):
        _ = checked_route(Local, bytes)(handler)


@pytest.mark.parametrize("result", [{"id": "7"}, User("7"), Special("7", True)], ids=["dict", "its own", "subclass"])
async def test_a_result_that_can_be_read_as_the_reply_is_sent(result: Any) -> None:
    async def get_user(_message: GetUser, _context: Context) -> Any:  # Any: what type checkers do not see
        return result

    assert await checked_route(GetUser, None)(get_user).answer(envelope("GetUser")) == msgspec.json.encode(result)


@pytest.mark.parametrize("result", [None, 7, {"id": 7}, Raw, [User("7")]], ids=repr)
async def test_a_result_of_another_type_is_the_handler_s_error_not_the_sender_s(result: Any) -> None:
    async def get_user(_message: GetUser, _context: Context) -> Any:  # Any: what type checkers do not see
        return result

    with pytest.raises(TypeError, match=r"get_user returned a \w+, not a User|is a class: send an instance"):
        await checked_route(GetUser, None)(get_user).answer(envelope("GetUser"))


def test_the_logger_keeps_what_its_caller_adds(caplog: pytest.LogCaptureFixture) -> None:
    Context(Envelope(shard=7, type="Do"), "node-1").logger.warning("added", extra={"cart": "ada"})
    [record] = caplog.records
    facts = vars(record)
    assert (facts["cart"], facts["clstr_node"], facts["clstr_shard"]) == ("ada", "node-1", 7)
