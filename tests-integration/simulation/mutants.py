"""Deliberate defects of the engine. The oracle is worth something only if it finds each of them, for its own reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest import mock

from clstr.errors import ClstrError, ConnectionLostError, InvalidReplyError, RequestTimeoutError
from clstr.spi import _answers, _sender
from clstr.spi._answers import Answers
from clstr.spi._deadlines import Deadlines
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
from clstr.spi._engine import Engine
from clstr.spi._pending import Pending, PendingReplies
from clstr.spi._receiver import Receiver
from clstr.spi._subscriptions import Holders

Patch = AbstractContextManager[Any]
F = TypeVar("F", bound=Callable[[], Patch])


@dataclass(frozen=True, slots=True)
class Mutant:
    """
    One defect.

    Attributes:
        name: What the engine does wrong.
        found_as: A part of what the oracle says about it.
        patch: Breaks the engine while it is entered.
    """

    name: str
    found_as: str
    patch: Callable[[], Patch]


MUTANTS: list[Mutant] = []


def mutant(found_as: str) -> Callable[[F], F]:
    """Make a function that patches the engine a mutant."""

    def register(patch: F) -> F:
        MUTANTS.append(Mutant(patch.__name__, found_as, patch))
        return patch

    return register


def replace(owner: object, name: str, new: Any) -> Patch:
    """Replace the attribute ``name``, which must exist; ``new`` gets the old one first."""
    old = getattr(owner, name)

    def replacement(*arguments: Any, **options: Any) -> Any:
        return new(old, *arguments, **options)

    return mock.patch.object(owner, name, replacement)


@mutant("sent again without proof")
def sends_again_after_a_lost_connection() -> Patch:
    def read(old: Any, sender: Any, outcome: Any, *arguments: Any) -> Any:
        return (outcome, 0.0) if isinstance(outcome, ConnectionLostError) else old(sender, outcome, *arguments)

    return replace(_sender.Sender, "_read", read)


@mutant("sent again too often")
def sends_again_without_end() -> Patch:
    return mock.patch.object(_sender, "PAUSES", (0.0,) * 10)


@mutant("was answered 0 times")
def loses_some_replies_without_an_error() -> Patch:
    def reply(old: Any, answers: Any, delivery: Delivery, data: bytes) -> None:
        if int(delivery.envelope.type[1:-1]) % 8:
            old(answers, delivery, data)

    return replace(Answers, "_reply", reply)


@mutant("ConnectionLostError says that it never ran")
def says_that_a_lost_request_never_ran() -> Patch:
    def fail(old: Any, pending: PendingReplies, *arguments: Any) -> None:
        with replace(ConnectionLostError, "__init__", _claim_not_executed):
            old(pending, *arguments)

    return _both(replace(PendingReplies, "fail_sent", fail), replace(PendingReplies, "fail_route", fail))


@mutant("RequestTimeoutError says that it never ran")
def says_that_what_timed_out_never_ran() -> Patch:
    def expire(old: Any, pending: Pending) -> None:
        pending.resolve(RequestTimeoutError(pending.shard, pending.timeout, maybe_executed=False))

    return replace(Pending, "expire", expire)


@mutant("what is no reply ended a request")
def ends_a_request_with_what_is_no_reply() -> Patch:
    def read(old: Any, *arguments: Any) -> object:
        outcome = old(*arguments)
        return InvalidReplyError("no reply") if outcome is None else outcome

    return replace(Receiver, "_read_reply", read)


@mutant("says that it never ran, but it did")
def takes_an_error_of_the_handler_for_a_refusal() -> Patch:
    return replace(_answers, "is_refusal_of", lambda old, error, message: isinstance(error, ClstrError))


@mutant("has left")
def leaks_the_slot_of_a_handler_that_timed_out() -> Patch:
    def end(old: Any, dispatcher: Any, delivery: Delivery) -> None:
        was_answered = delivery.answered and delivery.task is not None and delivery.task.cancelling() > 0
        old(dispatcher, delivery)
        dispatcher._active += was_answered

    return replace(Dispatcher, "end", end)


@mutant("without a free slot")
def frees_the_slot_at_the_timeout() -> Patch:
    def cancel(old: Any, dispatcher: Any, delivery: Delivery) -> None:
        old(dispatcher, delivery)
        if not delivery.lent:
            delivery.lent = 1
            dispatcher._active -= 1
            dispatcher._suspended += 1
            dispatcher._wake()

    return replace(Dispatcher, "_cancel", cancel)


@mutant("without a free slot")
def has_no_bound() -> Patch:
    return replace(Dispatcher, "_has_slot", lambda old, dispatcher, delivery: True)


@mutant("ended with")
def lends_no_slots() -> Patch:
    return _both(
        replace(Dispatcher, "lend", lambda old, dispatcher, delivery: None),
        replace(Dispatcher, "reclaim", lambda old, dispatcher, delivery: None),
    )


@mutant("has left")
def forgets_to_wake_what_waits() -> Patch:
    def end(old: Any, dispatcher: Any, delivery: Delivery) -> None:
        with mock.patch.object(Dispatcher, "_start_waiting"):
            old(dispatcher, delivery)

    return replace(Dispatcher, "end", end)


@mutant("started after it had expired")
def starts_what_has_expired() -> Patch:
    def enqueue(old: Any, dispatcher: Any, queue: Any, delivery: Delivery) -> None:
        delivery.deadline = float("inf")
        old(dispatcher, queue, delivery)
        dispatcher._deadlines.discard(delivery.tick, delivery)

    return replace(Dispatcher, "_enqueue", enqueue)


@mutant("ran for")
def never_stops_a_handler() -> Patch:
    return replace(Dispatcher, "_cancel", lambda old, dispatcher, delivery: None)


@mutant("started after its subscription had let go")
def keeps_the_gate_open_after_aclose() -> Patch:
    return replace(Holders, "_leave", lambda old, holders, subscription, shards: None)


@mutant("aclose returned while")
def closes_without_waiting() -> Patch:
    async def settle(old: Any, dispatcher: Any, selects: Any, deadline: float) -> bool:
        return True

    return replace(Dispatcher, "settle", settle)


@mutant("held, link:")
def leaves_the_shards_with_the_link() -> Patch:
    async def drop(old: Any, *arguments: Any) -> None:
        """Forget it."""

    return replace(Holders, "_drop", drop)


@mutant("asked a closing transport")
def takes_requests_while_it_closes() -> Patch:
    return replace(Engine, "check_usable", lambda old, engine: None)


@mutant("waited on although the connection was lost")
def forgets_its_own_requests_when_the_link_is_gone() -> Patch:
    return replace(PendingReplies, "fail_sent", lambda old, *arguments: None)


@mutant("waited on although its answer was there")
def gives_an_answer_to_another_request() -> Patch:
    def get(old: Any, pending: Any, token: int) -> Pending | None:
        return next(iter(pending._by_token.values()), None)

    return replace(PendingReplies, "get", get)


@mutant("has left")
def keeps_what_was_cancelled() -> Patch:
    def close(old: Any, replies: Any, pending: Pending) -> None:
        if not pending.outcome.cancelled():
            old(replies, pending)

    return replace(PendingReplies, "close", close)


@mutant("has left")
def keeps_the_deadlines_of_what_was_answered() -> Patch:
    def discard(old: Any, deadlines: Any, tick: int, item: Any) -> None:
        if not isinstance(item, Pending):
            old(deadlines, tick, item)

    return replace(Deadlines, "discard", discard)


@mutant("ended after its deadline")
def lets_some_requests_wait_for_ever() -> Patch:
    return replace(Pending, "expire", lambda old, pending: None if pending.token % 2 else old(pending))


@mutant("was answered 2 times")
def answers_again_after_a_timeout() -> Patch:
    def timed_out(old: Any, answers: Any, delivery: Delivery) -> None:
        old(answers, delivery)
        delivery.answered = False

    return replace(Answers, "handler_timed_out", timed_out)


@mutant("executed 2 times")
def gives_a_message_to_every_holder() -> Patch:
    def admit(old: Any, dispatcher: Any, delivery: Delivery) -> None:
        another = _copy(delivery)  # now: what has ended forgets its envelope
        old(dispatcher, delivery)
        if len(another.subscription._engine.holders._by_shard[another.envelope.shard]) > 1:
            old(dispatcher, another)

    return replace(Dispatcher, "admit", admit)


def _copy(delivery: Delivery) -> Delivery:
    names = ("envelope", "dispatcher", "subscription", "codec", "to", "oneway", "size", "expires", "deadline")
    fields: dict[str, Any] = {name: getattr(delivery, name) for name in (*names, "depth", "chain")}
    return Delivery(**fields)


def _claim_not_executed(old: Any, error: ClstrError, message: str, **_: Any) -> None:
    old(error, message, maybe_executed=False)


@contextmanager
def _both(one: Patch, other: Patch) -> Iterator[None]:
    with one, other:
        yield
