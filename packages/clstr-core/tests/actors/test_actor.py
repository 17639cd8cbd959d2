"""`clstr.Actor`: its marks, what it inherits, and the tasks that it owns."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import attrs
import msgspec
import pytest

from clstr._actors.actor import MAX_TASKS, Actor, every, handles
from clstr._actors.actor_handler import ActorHandler
from clstr._context import Current, current
from clstr._messages.envelope import KEY_HEADER, Envelope
from clstr._messages.message import Message
from clstr._node.route import Context
from clstr.errors import OverloadedError

Handling = Callable[..., AbstractContextManager[Current]]


class Get(msgspec.Struct, Message[str]):
    pass


class Put(msgspec.Struct, Message[str]):
    pass


class Raw(msgspec.Struct):
    pass


class Hiding:
    """A decorator that is a class."""

    def __init__(self, method: Any) -> None:  # Any: any method
        self.method = method


class Base(Actor):
    @handles(Get)
    async def get(self, _message: Get, context: Context) -> str:
        return f"base {context.key} {self.key}"

    @handles(Raw, reply=bytes)
    async def raw(self, _message: Raw, _context: Context) -> bytes:
        return b"raw"

    @every(3)
    async def tick(self) -> None: ...


class Derived(Base):
    @handles(Put)
    async def put(self, _message: Put, _context: Context) -> str:
        return "derived"

    @handles(Raw, reply=bytes)
    async def other_raw(self, _message: Raw, _context: Context) -> bytes:
        return b"derived raw"

    @every(4)
    async def tock(self) -> None: ...


class Mixin:
    @handles(Put)
    async def put(self, _message: Put, _context: Context) -> str:
        return "mixin"

    @every(7)
    async def tick(self) -> None: ...


class Mixed(Base, Mixin):
    pass


async def ask(cls: type[Actor], type_: str) -> bytes | None:
    return await ActorHandler(cls)(Envelope(shard=1, type=type_, data=b"{}", headers={KEY_HEADER: "a"}))


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("cls", "type_", "reply"),
    [
        (Base, "Get", b'"base a a"'),
        (Base, "Raw", b"raw"),
        (Derived, "Get", b'"base a a"'),
        (Derived, "Put", b'"derived"'),
        (Derived, "Raw", b"derived raw"),
        (Mixed, "Get", b'"base a a"'),
        (Mixed, "Put", b'"mixin"'),
    ],
    ids=["own", "own bytes", "inherited", "added", "overridden", "first base", "second base"],
)
async def test_a_message_finds_the_method_for_its_type(cls: type[Actor], type_: str, reply: bytes) -> None:
    assert await ask(cls, type_) == reply


async def test_a_method_that_is_overridden_handles_what_its_base_s_did() -> None:
    class Override(Derived):
        async def get(self, _message: Get, context: Context) -> str:
            return f"override of {await super().get(_message, context)}"

    class Deeper(Override):
        """Inherits the override."""

    for cls in (Override, Deeper):
        answer = await ActorHandler(cls)(Envelope(shard=0, type="Get", data=b"{}", headers={KEY_HEADER: "a"}))
        assert answer == b'"override of base a a"'
    assert Base.routes["Get"].handler is Base.get


def test_an_override_must_be_async_too() -> None:
    with pytest.raises(TypeError, match=r"Broken\.get handles 'Get': it must be an async method"):

        class Broken(Base):
            def get(self, _message: Get, context: Context) -> str:  # type: ignore[override]  # the mistake
                return ""


def test_a_class_adds_nothing_to_its_bases() -> None:
    assert (Actor.routes, Actor.timers) == ({}, {})
    assert sorted(Base.routes) == ["Get", "Raw"]
    assert (Base.timers, Derived.timers) == ({"tick": 3}, {"tick": 3, "tock": 4})
    assert Mixed.timers == {"tick": 3}  # the nearer base wins


def test_two_methods_for_one_type_are_a_mistake() -> None:
    with pytest.raises(TypeError, match=r"Twice\.b handles 'Get', which another method of it handles already"):

        class Twice(Actor):
            @handles(Get)
            async def a(self, _message: Get, _context: Context) -> str:
                return ""

            @handles(Get)
            async def b(self, _message: Get, _context: Context) -> str:
                return ""


def guard(method: Any) -> Any:  # Any: any method
    """A decorator as it should be."""

    @functools.wraps(method)
    async def inner(self: Actor, *arguments: object) -> Any:
        if arguments and getattr(arguments[0], "is_forbidden", True):
            raise PermissionError("not an admin")
        return await method(self, *arguments)

    return inner


def hide(method: Any) -> Any:  # Any: any method
    """A decorator that forgets what it decorates."""

    async def inner(self: Actor, *arguments: object) -> Any:
        return await method(self, *arguments)

    return inner


async def test_decorators_above_and_below_the_mark_run() -> None:
    class Guarded(Actor):
        @guard
        @handles(Get)
        async def get(self, _message: Get, _context: Context) -> str:
            return "got"

        @handles(Put)
        @guard
        async def put(self, _message: Put, _context: Context) -> str:
            return "put"

    class Derived(Guarded):
        @guard
        async def get(self, _message: Get, _context: Context) -> str:
            return "override"

    for cls in (Guarded, Derived):
        for type_ in ("Get", "Put"):
            with pytest.raises(PermissionError, match="not an admin"):
                await ActorHandler(cls)(Envelope(shard=0, type=type_, data=b"{}", headers={KEY_HEADER: "a"}))


@pytest.mark.parametrize("hidden_by", [hide, functools.partialmethod, Hiding], ids=["closure", "partial", "object"])
@pytest.mark.parametrize("mark", [handles(Get), every(1)], ids=["handles", "every"])
def test_a_decorator_that_hides_the_mark_is_a_mistake(hidden_by: Callable[..., Any], mark: Callable[..., Any]) -> None:
    async def method(self: Actor, *_arguments: object) -> str:
        return ""

    with pytest.raises(TypeError, match=r"Hidden\.get handles nothing: a decorator above @handles or @every hides"):
        type("Hidden", (Actor,), {"get": hidden_by(mark(method))})


async def test_a_method_may_handle_several_types() -> None:
    class Both(Actor):
        @handles(Get)
        @handles(Put)
        async def either(self, message: Get | Put, _context: Context) -> str:
            return type(message).__name__

    for type_ in ("Get", "Put"):
        answer = await ActorHandler(Both)(Envelope(shard=0, type=type_, data=b"{}", headers={KEY_HEADER: "a"}))
        assert answer == f'"{type_}"'.encode()
    with pytest.raises(TypeError, match=r"either handles 'Get' twice"):
        handles(Get)(Both.either)


def sync(_self: Actor) -> None: ...


async def asynchronous(_self: Actor, _error: Exception) -> bool:
    return True


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("on_start", sync, r"on_start must be an async method: write `async def`"),
        ("on_stop", sync, r"on_stop must be an async method: write `async def`"),
        ("on_error", asynchronous, r"on_error must not be async: it decides at once"),
        ("timers", {}, r"timers is where clstr keeps what the class declares: call yours something else"),
        ("routes", {}, r"routes is where clstr keeps what the class declares: call yours something else"),
    ],
    ids=["on_start", "on_stop", "on_error", "timers", "routes"],
)
def test_a_mistake_in_a_class_is_named(name: str, value: object, text: str) -> None:
    with pytest.raises(TypeError, match=rf"Mistaken\.{text}"):
        type("Mistaken", (Actor,), {name: value})


@pytest.mark.parametrize("make_again", [attrs.define, dataclasses.dataclass(slots=True)], ids=["attrs", "dataclass"])
async def test_a_class_that_a_decorator_makes_again_keeps_what_it_declares(make_again: Callable[..., Any]) -> None:
    @make_again
    class Made(Base):
        count: int = 0

    answer = await ActorHandler(Made)(Envelope(shard=0, type="Raw", data=b"{}", headers={KEY_HEADER: "a"}))
    assert (answer, Made.timers) == (b"raw", {"tick": 3})


async def test_attributes_of_an_actor_are_its_own_affair() -> None:
    class Busy(Base):
        async def on_start(self) -> None:
            self.timers = {"mine": 1.0}  # type: ignore[misc]  # nothing keeps an actor from it
            self.routes = {}  # type: ignore[misc]  # nothing keeps an actor from it

    for create in (Busy, lambda _key: Busy()):
        handler = ActorHandler(create)
        answer = await handler(Envelope(shard=0, type="Raw", data=b"{}", headers={KEY_HEADER: "a"}))
        assert answer == b"raw"
        await handler.aclose()


async def async_method(_self: Any, _message: Any, _context: Context) -> bytes:  # Any: any actor, any message
    return b""


def plain_method(_self: Any, _message: Any, _context: Context) -> bytes:  # Any: any actor, any message
    return b""


@pytest.mark.parametrize(
    ("message", "reply", "method", "text"),
    [
        ("Get", None, async_method, "takes the class of the messages"),
        (Raw, None, async_method, "the type of the reply to Raw is not known"),
        (Raw, bytes, plain_method, "the handler of Raw must be an async function"),
        (Raw, bytes, Base.get, r"Base\.get takes a Get, which no Raw is"),
    ],
    ids=["no class", "no reply type", "not async", "another message"],
)
def test_a_mistake_in_a_mark_is_named(message: Any, reply: Any, method: Any, text: str) -> None:  # Any: the mistakes
    with pytest.raises(TypeError, match=text):
        handles(message, reply=reply)(method)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")], ids=str)
def test_periodic_work_needs_a_period(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds must be above 0"):
        every(seconds)


def test_periodic_work_must_be_async() -> None:
    with pytest.raises(TypeError, match="periodic work must be an async method"):
        every(1)(lambda _self: None)  # type: ignore[arg-type,return-value]  # the mistake that this is about


async def test_by_default_an_actor_starts_and_stops_without_ado_and_survives_errors() -> None:
    actor = Actor()
    await actor.on_start()
    await actor.on_stop()
    assert not actor.on_error(ValueError())
    await actor.cancel_tasks()


async def test_spawned_work_is_bounded_and_its_end_makes_room() -> None:
    actor = Actor()
    let_go = asyncio.Event()

    async def work() -> None:
        await let_go.wait()

    tasks = [actor.spawn(work()) for _ in range(MAX_TASKS)]
    with pytest.raises(OverloadedError) as caught:
        _ = actor.spawn(work())
    assert (caught.value.limit, caught.value.bound) == ("max_tasks", 32)
    let_go.set()
    await asyncio.wait(tasks)
    await asyncio.sleep(0)
    again = actor.spawn(work())
    await again


async def test_spawned_work_is_cancelled_and_awaited_at_the_stop() -> None:
    ended: list[str] = []

    class Owner(Base):
        async def on_start(self) -> None:
            self.work_task = self.spawn(self.work())

        async def work(self) -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(0)
                ended.append("work")

        async def on_stop(self) -> None:
            ended.append("stop")

    handler = ActorHandler(Owner)
    await handler(Envelope(shard=1, type="Get", data=b"{}", headers={KEY_HEADER: "a"}))
    await asyncio.sleep(0)
    await handler.aclose()
    assert ended == ["work", "stop"]


async def test_work_that_cancels_the_tasks_does_not_cancel_itself() -> None:
    actor = Actor()
    other = actor.spawn(forever())
    itself = actor.spawn(actor.cancel_tasks())
    await itself
    assert other.cancelled()
    assert not itself.cancelled()


async def test_spawned_work_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ValueError("no")

    task = Base().spawn(work())
    await asyncio.wait({task})
    await asyncio.sleep(0)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("clstr.actor", logging.ERROR)
    assert record.getMessage() == "a task of a Base failed"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_spawned_work_is_not_done_for_the_message_that_it_was_spawned_for(handling: Handling) -> None:
    seen: list[Current | None] = []

    async def work() -> None:
        seen.append(current())

    with handling():
        await Actor().spawn(work())
        assert current() is not None
    assert seen == [None]
