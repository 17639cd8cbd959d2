"""The message being handled: who sees it, for how long, and what a refusal is stamped with."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from clstr._context import Current, base_context, current, is_refusal_of, refuse, set_current
from clstr._messages.envelope import Envelope
from clstr.errors import ClstrError, KeyRequiredError, OverloadedError, TransportClosedError

Handling = Callable[..., AbstractContextManager[Current]]


def test_outside_of_handlers_there_is_no_message() -> None:
    assert current() is None


def test_a_message_is_what_its_sender_made_it_and_has_not_ended(handling: Handling) -> None:
    envelope = Envelope(shard=3, type="Get")
    with handling(envelope=envelope) as message:
        assert current() is message
        assert (message.envelope, message.depth, message.chain, message.ended) == (envelope, 0, (), False)
    assert current() is None


def test_a_message_holds_its_depth_and_chain() -> None:
    class Nested(Current):
        def time_left(self) -> float:
            return 1.0

        def lend(self) -> None: ...
        def reclaim(self) -> None: ...

    message = Nested(envelope=Envelope(shard=3, type="Get"), depth=2, chain=("a", "b"))
    assert (message.depth, message.chain) == (2, ("a", "b"))


def test_a_message_awaits_the_answers_to_the_calls_that_it_has_begun_and_not_ended(handling: Handling) -> None:
    with handling() as message:
        message.end_call("never begun")
        assert not message.awaits("a#1")
        message.begin_call("a#1")
        message.begin_call("a#2")
        message.end_call("a#1")
        message.end_call("a#1")
        assert (message.awaits("a#1"), message.awaits("a#2")) == (False, True)


def test_a_message_that_has_ended_is_nobody_s(handling: Handling) -> None:
    with handling() as message:
        message.ended = True
        assert current() is None


async def test_child_tasks_see_the_message_until_it_ends(handling: Handling) -> None:
    ended = asyncio.Event()

    async def child() -> tuple[Current | None, Current | None]:
        before = current()
        await ended.wait()
        return before, current()

    with handling() as message:
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
    ended.set()
    assert await asyncio.wait_for(task, 5) == (message, None)


async def test_tasks_beside_a_handler_do_not_see_its_message(handling: Handling) -> None:
    start, done = asyncio.Event(), asyncio.Event()

    async def beside() -> Current | None:
        await start.wait()
        return current()

    async def handler() -> None:
        with handling():
            start.set()
            await done.wait()

    outside, inside = asyncio.create_task(beside()), asyncio.create_task(handler())
    assert await asyncio.wait_for(outside, 5) is None
    done.set()
    await asyncio.wait_for(inside, 5)


def test_a_message_is_unset_by_none(handling: Handling) -> None:
    with handling():
        set_current(None)
        assert current() is None


# Work for a key, not for one message

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def test_outside_of_transports_work_for_a_key_inherits_all_but_the_message(handling: Handling) -> None:
    def seen() -> tuple[str, Current | None]:
        return tenant.get(), current()

    def run() -> None:
        tenant.set("ada")
        assert base_context().copy().run(seen) == ("ada", None)
        with handling() as message:
            assert base_context().copy().run(seen) == ("ada", None)
            assert current() is message

    contextvars.copy_context().run(run)


# Refusals


def test_a_refusal_is_the_error_itself_and_proves_that_the_message_did_not_run(handling: Handling) -> None:
    with handling():
        error = TransportClosedError(maybe_executed=True)
        assert refuse(error) is error
        assert not error.maybe_executed


def test_a_refusal_belongs_to_the_message_in_whose_handler_it_was_made(handling: Handling) -> None:
    with handling() as first:
        error = refuse(OverloadedError("cache_size", 1))
        assert is_refusal_of(error, first)
    with handling() as second:
        assert not is_refusal_of(error, second)
    assert is_refusal_of(error, first)


def test_an_error_refused_again_belongs_to_the_later_message_alone(handling: Handling) -> None:
    error = KeyRequiredError()
    with handling() as first:
        refuse(error)
    with handling() as second:
        refuse(error)
    assert (is_refusal_of(error, first), is_refusal_of(error, second)) == (False, True)


@pytest.mark.parametrize(
    "error", [KeyRequiredError(), ClstrError("text"), ValueError("x"), KeyboardInterrupt()], ids=repr
)
def test_an_error_without_the_stamp_is_no_refusal(error: BaseException, handling: Handling) -> None:
    with handling() as message:
        assert not is_refusal_of(error, message)


def test_no_foreign_error_is_a_refusal_even_with_the_stamp(handling: Handling) -> None:
    with handling() as message:
        error = ValueError("x")
        error.__dict__["_refused"] = message
        assert not is_refusal_of(error, message)


def test_a_refusal_made_outside_of_handlers_refuses_nothing(handling: Handling) -> None:
    error = refuse(KeyRequiredError())
    with handling() as message:
        assert not is_refusal_of(error, message)


def test_outside_of_handlers_a_refusal_is_told_from_other_errors() -> None:
    assert is_refusal_of(refuse(KeyRequiredError()), None)
    assert not is_refusal_of(KeyRequiredError(), None)


def test_a_task_left_behind_refuses_nothing(handling: Handling) -> None:
    with handling() as message:
        message.ended = True
        assert not is_refusal_of(refuse(KeyRequiredError()), message)
