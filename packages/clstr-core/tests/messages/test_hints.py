"""What annotations say of values, and what is left to type checkers."""

from __future__ import annotations

import asyncio
import collections
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Annotated, Any, Literal, NewType, Protocol, TypedDict

import pytest

from clstr._messages.hints import annotation, check_async, classes_of, is_never

UserId = NewType("UserId", int)


class Speaks(Protocol):
    id: str


class Options(TypedDict):
    id: str


class User:
    pass


class Special(User):
    pass


@pytest.mark.parametrize(
    ("hint", "classes"),
    [
        (User, (User,)),
        (None, (type(None),)),
        (User | None, (User, type(None))),
        (typing.Union[User, list[int]], (User, list)),  # noqa: UP007 -- the other spelling
        (Annotated[User, "x"], (User,)),
        (UserId, (int,)),
        (float, (float, int)),
        (dict[str, int], (dict,)),
        (Options, (dict,)),
        (Sequence[int], (collections.abc.Sequence,)),
        (Any, None),
        (object, None),
        (Speaks, None),
        (Literal["a"], None),
        (User | Any, None),
        ("User", None),
    ],
    ids=str,
)
def test_a_hint_says_the_classes_of_its_values_or_nothing(hint: Any, classes: tuple[type, ...] | None) -> None:
    assert classes_of(hint) == classes


@pytest.mark.parametrize(
    ("returned", "expected", "never"),
    [
        (int, User, True),
        (User, int, True),
        (User | int, User, True),
        (Special, User, False),
        (User, Special, False),
        (User, User | int, False),
        (int, float, False),
        (dict, User, False),
        (Any, User, False),
        (User, Any, False),
        (None, User, True),
        (None, None, False),
    ],
    ids=str,
)
def test_only_what_can_never_be_is_told(returned: Any, expected: Any, never: bool) -> None:
    assert is_never(returned, expected) is never


def test_a_hint_that_is_missing_or_cannot_be_resolved_says_nothing() -> None:
    def silent(_x):  # type: ignore[no-untyped-def]  # that is what this is about
        ...

    def unknown(_x: Missing) -> Missing: ...  # type: ignore[name-defined]  # noqa: F821 -- as under TYPE_CHECKING

    def known(_x: int) -> None: ...

    assert [annotation(each, "return") for each in (silent, unknown)] == [annotation(known, "y")] * 2
    assert (annotation(known, "_x"), annotation(known, "return")) == (int, type(None))


async def coroutine(_envelope: object) -> bytes:
    return b""


def passes_on(envelope: object) -> Awaitable[bytes]:
    return coroutine(envelope)


def passes_a_coroutine_on(envelope: object) -> Coroutine[Any, Any, bytes]:
    return coroutine(envelope)


def makes_a_task(envelope: object) -> asyncio.Task[bytes]:
    return asyncio.ensure_future(coroutine(envelope))


def says_nothing(envelope):  # type: ignore[no-untyped-def]  # that is what this is about
    return coroutine(envelope)


def plain(_envelope: object) -> bytes:
    return b""


def generator(_envelope: object) -> Iterator[bytes]:
    yield b""


async def asynchronous_generator(_envelope: object) -> AsyncIterator[bytes]:
    yield b""


class Caller:
    def __call__(self, _envelope: object) -> bytes:
        return b""

    def method(self, _envelope: object) -> bytes | None:
        return b""


MAY_BE = [coroutine, passes_on, passes_a_coroutine_on, makes_a_task, says_nothing, Caller()]


@pytest.mark.parametrize("handler", MAY_BE)
def test_what_may_return_something_to_await_is_let_through(handler: Callable[..., object]) -> None:
    check_async(handler, "the handler")


@pytest.mark.parametrize("handler", [plain, generator, asynchronous_generator, Caller().method])
def test_what_says_that_it_is_not_async_is_refused(handler: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match=f"the handler must be async, not {handler.__qualname__}: write `async def`"):
        check_async(handler, "the handler")
