"""What goes back: bytes, refusals of this very message, and `HandlerError` for all else (T10, T11, T12)."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clstr import errors
from clstr._context import current, refuse
from clstr._messages.envelope import Envelope
from clstr._messages.wire import CODECS, JSON, Codec
from clstr.errors import (
    ClstrError,
    DrainingError,
    EnvelopeExpiredError,
    HandlerError,
    HandlerTimeoutError,
    NotOwnerError,
    OverloadedError,
    PayloadTooLargeError,
    UnknownMessageError,
)
from clstr.spi._engine import Engine
from spi.fakes import (
    FakeLink,
    OpenEngine,
    echo,
    linked,
    message,
    request_from,
    ticks,
)
from spi.virtual_time import VirtualLoop


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


class BaseUnreadableError(BaseException):
    """Neither an Exception nor a cancellation, but no reason to stop the program."""


EVERY_ERROR: list[ClstrError] = [
    kind.restore("said the handler", {name: type_() for name, type_ in kind.facts.items()})
    for name in errors.__all__
    for kind in [getattr(errors, name)]
]


def raising(error: BaseException) -> Any:  # Any: a handler that returns nothing
    async def handler(_: Envelope) -> bytes:
        raise error

    return handler


def returning(result: object) -> Any:  # Any: not always a handler's result
    async def handler(_: Envelope) -> object:
        return result

    return handler


def refusing(error: ClstrError) -> Any:  # Any: a handler that returns nothing
    async def handler(_: Envelope) -> bytes:
        raise refuse(error)

    return handler


# Results.


@pytest.mark.parametrize(("result", "reply"), [(b"data", b"data"), (b"", b""), (None, b"")])
async def test_bytes_travel_and_none_is_empty(engine: Engine, result: bytes | None, reply: bytes) -> None:
    assert await request_from(engine, returning(result)) == reply


@pytest.mark.parametrize("result", ["text", 5, bytearray(b"x"), memoryview(b"x"), {"a": 1}, False, echo])
async def test_a_wrong_type_is_a_handler_error_that_names_it(engine: Engine, result: object) -> None:
    error = await request_from(engine, returning(result))
    assert isinstance(error, HandlerError)
    assert error.error_type == "TypeError"
    assert f"returned {type(result).__name__}, not bytes" in error.error_message
    assert error.maybe_executed


async def test_a_subclass_of_bytes_is_bytes(engine: Engine) -> None:
    class Text(bytes):
        pass

    assert await request_from(engine, returning(Text(b"data"))) == b"data"


@pytest.mark.parametrize(
    "not_async",
    [lambda _: b"data", lambda _: None, lambda: b"", lambda _: 1 / 0],
    ids=["bytes", "None", "no argument", "raises"],
)
async def test_a_handler_that_is_not_async_is_a_handler_error(engine: Engine, not_async: Any) -> None:
    error = await request_from(engine, not_async)
    assert isinstance(error, HandlerError)
    assert error.error_type in {"TypeError", "ZeroDivisionError"}


async def test_a_reply_too_large_says_that_the_handler_ran(open_engine: OpenEngine) -> None:
    engine = await open_engine(max_payload_bytes=10)
    assert await request_from(engine, returning(bytes(10)), "fits") == bytes(10)
    error = await request_from(engine, returning(bytes(11)), "large")
    assert isinstance(error, PayloadTooLargeError)
    assert (error.size, error.max_bytes, error.maybe_executed) == (11, 10, True)


async def test_a_reply_that_the_broker_does_not_carry_says_that_the_handler_ran(open_engine: OpenEngine) -> None:
    """The limit promises what fits in msgpack; a JSON peer's answer is a third larger."""
    engine = await open_engine(FakeLink(max_message_bytes=6400))
    size = engine.max_payload_bytes
    assert await request_from(engine, returning(bytes(size)), "msgpack") == bytes(size)
    error = await request_from(engine, returning(bytes(size)), "json", codec=JSON)
    assert isinstance(error, PayloadTooLargeError)
    assert (error.size, error.maybe_executed) == (size, True)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("maximum", [256, 1000, 4000])
async def test_an_error_is_shortened_to_what_the_broker_carries(
    open_engine: OpenEngine, codec: Codec, maximum: int
) -> None:
    """A control character takes six bytes in JSON, and both text and facts hold it."""
    link = FakeLink(max_message_bytes=maximum)
    engine = await open_engine(link)
    error = await request_from(engine, raising(ValueError("\x01" * 1000)), codec=codec)
    assert isinstance(error, HandlerError)
    assert error.maybe_executed
    assert len(link.bodies[-1]) <= maximum
    refusal = await request_from(engine, refusing(OverloadedError("x" * 1000, 1)), "refused", codec=codec)
    assert isinstance(refusal, OverloadedError)
    assert not refusal.maybe_executed
    assert len(link.bodies[-1]) <= maximum


async def test_a_reply_too_large_follows_what_the_broker_carries(open_engine: OpenEngine) -> None:
    link = FakeLink(max_message_bytes=1024 * 1024)
    engine = await open_engine(link)
    link.max_message_bytes = 100_000
    error = await request_from(engine, returning(bytes(100_001)), "large")
    assert isinstance(error, PayloadTooLargeError)
    assert (error.max_bytes, error.maybe_executed) == (engine.max_payload_bytes, True)


# Exceptions.


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
async def test_every_error_of_ours_that_a_handler_lets_escape_is_a_handler_error(
    engine: Engine, error: ClstrError
) -> None:
    error.maybe_executed = False
    answer = await request_from(engine, raising(error))
    assert type(answer) is HandlerError
    assert (answer.error_type, answer.error_message) == (type(error).__name__, "said the handler")
    assert answer.maybe_executed
    assert engine.counters.refused.total() == 0


async def test_a_refusal_of_an_onward_request_is_a_handler_error(engine: Engine) -> None:
    async def handler(_: Envelope) -> bytes:
        return await engine.request(message(shard=2))

    await engine.subscribe([1], handler)
    link = linked(engine)
    link.deliver("outer")
    await ticks()
    link.answer(link.sent[0], OverloadedError("max_queue", 7))
    await ticks()
    answer = link.answer_to("outer")
    assert type(answer) is HandlerError
    assert answer.error_type == "OverloadedError"
    assert answer.maybe_executed


async def test_a_refusal_stamped_for_another_message_is_a_handler_error(engine: Engine) -> None:
    stolen: list[ClstrError] = []

    async def handler(envelope: Envelope) -> bytes:
        if envelope.type == "first":
            stolen.append(refuse(OverloadedError("cache_size", 7)))
            await asyncio.Event().wait()
        raise stolen[0]

    await engine.subscribe([1], handler)
    linked(engine).deliver("first", ttl_ms=1)
    linked(engine).deliver("second")
    await ticks()
    answer = linked(engine).answer_to("second")
    assert type(answer) is HandlerError
    assert answer.maybe_executed


async def test_a_refusal_stamped_outside_of_handlers_is_a_handler_error(engine: Engine) -> None:
    assert type(await request_from(engine, raising(refuse(DrainingError(1))))) is HandlerError


async def test_a_refusal_in_an_exception_group_is_a_handler_error(engine: Engine) -> None:
    async def handler(_: Envelope) -> bytes:
        raise ExceptionGroup("both", [refuse(OverloadedError("cache_size", 7))])

    answer = await request_from(engine, handler)
    assert type(answer) is HandlerError
    assert answer.error_type == "ExceptionGroup"


@pytest.mark.parametrize(
    "refusal",
    [
        UnknownMessageError("Nope", "A, B"),
        OverloadedError("cache_size", 7),
        NotOwnerError(1),
        EnvelopeExpiredError(1, 2.5),
        PayloadTooLargeError(9, 8, is_reply=True),
        errors.CallCycleError("a -> b -> a"),
        errors.MissingKeyHeaderError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_refusal_of_this_very_message_travels_as_it_is(engine: Engine, refusal: ClstrError) -> None:
    async def handler(_: Envelope) -> bytes:
        raise refuse(refusal)

    answer = await request_from(engine, handler)
    assert type(answer) is type(refusal)
    assert str(answer) == str(refusal)
    assert isinstance(answer, ClstrError)
    assert answer.details() == refusal.details()
    assert not answer.maybe_executed
    assert engine.counters.refused.total() == 1


async def test_a_child_task_may_make_the_refusal(engine: Engine) -> None:
    async def child() -> None:
        raise refuse(OverloadedError("cache_size", 7))

    async def handler(_: Envelope) -> bytes:
        await asyncio.ensure_future(child())
        return b""

    assert type(await request_from(engine, handler)) is OverloadedError


async def test_a_refusal_that_cannot_be_written_is_a_handler_error(engine: Engine) -> None:
    """Its facts are the handler's to set, and here it did not."""

    async def handler(_: Envelope) -> bytes:
        raise refuse(OverloadedError.restore("half an error", {}))

    answer = await request_from(engine, handler)
    assert type(answer) is HandlerError
    assert (answer.error_type, answer.error_message) == ("OverloadedError", "half an error")
    assert answer.maybe_executed


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad"), "bad"),
        (ValueError(), ""),
        (asyncio.CancelledError(), "the handler cancelled itself"),
        (asyncio.CancelledError("by hand"), "by hand"),
        (TimeoutError("slow"), "slow"),
        (UnreadableError(), "(its message cannot be read: RuntimeError)"),
        (ExceptionGroup("all", [ValueError("bad")]), "all (1 sub-exception)"),
        (ValueError("\ud800 lone"), "? lone"),
        (StopAsyncIteration(), ""),
    ],
    ids=lambda value: repr(value) if isinstance(value, BaseException) else value[:9],
)
async def test_any_exception_is_a_handler_error_with_its_name(engine: Engine, error: BaseException, text: str) -> None:
    answer = await request_from(engine, raising(error))
    assert type(answer) is HandlerError
    assert (answer.error_type, answer.error_message) == (type(error).__name__, text)
    assert answer.maybe_executed


async def test_a_long_message_is_cut_to_1_kib(engine: Engine) -> None:
    answer = await request_from(engine, raising(ValueError("ä" * 5000)))
    assert isinstance(answer, HandlerError)
    assert answer.error_message == "ä" * 507 + " ... (cut)"


async def test_a_future_that_was_cancelled_under_the_handler_is_its_error(engine: Engine) -> None:
    async def handler(_: Envelope) -> bytes:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return bytes(await future)

    answer = await request_from(engine, handler)
    assert isinstance(answer, HandlerError)
    assert answer.error_type == "CancelledError"


async def wait_for_ever(_: Envelope) -> bytes:
    await asyncio.Event().wait()
    return b""


async def test_a_handler_that_somebody_else_cancels_is_answered(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()  # what other tests have left is not this one's
    caplog.clear()
    await engine.subscribe([1], wait_for_ever)
    linked(engine).deliver("started")
    await ticks()
    linked(engine).deliver("at its first step")
    for delivery in engine.dispatcher.running():
        assert delivery.task is not None
        delivery.task.cancel()
    await ticks()
    for to in ("started", "at its first step"):
        answer = linked(engine).answer_to(to)
        assert isinstance(answer, HandlerError)
        assert answer.error_type == "CancelledError"
    assert engine.dispatcher.active == 0
    gc.collect()
    assert caplog.messages == []


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), BaseUnreadableError("odd")], ids=repr)
def test_what_must_stop_the_program_stops_it_and_is_answered_first(error: BaseException) -> None:
    loop = VirtualLoop()
    link = FakeLink()

    async def serve() -> Engine:
        engine = await Engine(link).open()
        await engine.subscribe([1], raising(error))
        link.deliver("stop")
        await ticks()
        return engine

    serving = loop.create_task(serve())
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        with pytest.raises(type(error)):
            loop.run_until_complete(serving)
    engine = loop.run_until_complete(serving)
    answer = link.answer_to("stop")
    assert isinstance(answer, HandlerError)
    assert answer.error_type == type(error).__name__
    assert engine.dispatcher.active == 0
    loop.run_until_complete(engine.aclose())
    loop.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(text=st.text(alphabet=st.characters()), name=st.text(min_size=1, max_size=2000))
def test_no_name_or_message_breaks_the_answer(text: str, name: str) -> None:
    loop = VirtualLoop()
    link = FakeLink()

    async def run() -> None:
        engine = await Engine(link).open()
        kind = type("Odd", (Exception,), {})
        kind.__name__ = name.replace("\0", "")
        await engine.subscribe([1], raising(kind(text)))
        link.deliver("odd")
        await ticks()
        await engine.aclose()

    loop.run_until_complete(run())
    loop.close()
    assert type(link.answer_to("odd")) is HandlerError


# The answer's way.


async def test_a_message_that_has_nowhere_to_answer_to_is_handled_all_the_same(engine: Engine) -> None:
    handled = []

    async def handler(envelope: Envelope) -> bytes:
        handled.append(envelope.type)
        if envelope.type == "raises":
            raise ValueError
        return b""

    await engine.subscribe([1], handler)
    linked(engine).deliver("returns", to=None)
    linked(engine).deliver("raises", to=None)
    linked(engine).deliver("refused", to=None, shard=2)
    await ticks()
    assert handled == ["returns", "raises"]
    assert linked(engine).replies == []


@pytest.mark.parametrize("signal", ["up", "writable"])
async def test_an_answer_that_the_link_does_not_take_is_sent_when_it_does(engine: Engine, signal: str) -> None:
    linked(engine).can_reply = False
    await engine.subscribe([1], echo)
    linked(engine).deliver("answer", b"data")
    linked(engine).deliver("refusal", shard=2)
    await ticks()
    linked(engine).can_reply = True
    getattr(linked(engine).sink, signal)()
    assert linked(engine).answer_to("answer") == b"data"
    assert isinstance(linked(engine).answer_to("refusal"), NotOwnerError)
    assert engine.counters.dropped_replies == 0
    assert engine.answer_budget.total_bytes == 0


async def test_a_destination_that_takes_nothing_is_asked_once_and_keeps_back_nobody_else(
    open_engine: OpenEngine, link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "destination", lambda to: str(to).split()[0])
    engine = await open_engine()
    offered: list[object] = []

    def take_all_but_slow(to: object, _: bytes) -> bool:
        offered.append(to)
        return str(to).startswith("quick")

    link.can_reply = False
    await engine.subscribe([1], echo)
    for number in range(50):
        link.deliver(f"slow {number}")
        link.deliver(f"quick {number}")
    await ticks()
    monkeypatch.setattr(link, "reply", take_all_but_slow)
    link.sink.writable()
    assert offered[:1] == ["slow 0"]
    assert offered[1:] == [f"quick {number}" for number in range(50)]
    assert len(engine.answers.unsent) == 50


async def test_an_answer_that_the_link_never_takes_is_dropped_at_its_deadline_and_counted(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop
) -> None:
    """Without a TTL the deadline is that of any handler."""
    engine = await open_engine(handler_timeout=5)
    link.can_reply = False
    await engine.subscribe([1], echo)
    link.deliver("one second", ttl_ms=1000)
    link.deliver("no TTL")
    await asyncio.sleep(0.9)
    assert (engine.counters.dropped_replies, len(engine.answers.unsent)) == (0, 2)
    await asyncio.sleep(0.2)
    assert (engine.counters.dropped_replies, len(engine.answers.unsent)) == (1, 1)
    await asyncio.sleep(4)
    assert (engine.counters.dropped_replies, len(engine.answers.unsent)) == (2, 0)
    link.can_reply = True
    link.sink.writable()
    assert link.replies == []


async def test_the_answer_of_a_handler_that_was_cut_off_is_kept_while_its_sender_waits(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop
) -> None:
    engine = await open_engine(handler_timeout=1)
    link.can_reply = False
    await engine.subscribe([1], wait_for_ever)
    link.deliver("t", ttl_ms=5000)
    await asyncio.sleep(1.5)
    link.can_reply = True
    link.sink.up()
    assert isinstance(link.answer_to("t"), HandlerTimeoutError)


async def test_closing_waits_for_answers_that_the_link_has_not_taken(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop
) -> None:
    engine = await open_engine(drain_timeout=5)
    link.can_reply = False
    await engine.subscribe([1], echo)
    link.deliver("t", b"data")
    await ticks()
    closing = asyncio.ensure_future(engine.aclose())
    await asyncio.sleep(4)
    assert not closing.done()
    link.can_reply = True
    link.sink.writable()
    await closing
    assert link.answer_to("t") == b"data"


async def test_closing_gives_up_what_the_link_does_not_take_in_the_time_to_drain(
    open_engine: OpenEngine, link: FakeLink, clock: VirtualLoop
) -> None:
    engine = await open_engine(drain_timeout=5)
    link.can_reply = False
    await engine.subscribe([1], echo)
    link.deliver("t", b"data")
    await ticks()
    started = clock.time()
    await engine.aclose()
    assert clock.time() - started == pytest.approx(5, abs=0.02)
    assert engine.counters.dropped_replies == 1


async def test_a_link_that_is_lost_for_good_takes_its_answers_along(engine: Engine, link: FakeLink) -> None:
    link.can_reply = False
    await engine.subscribe([1], echo)
    link.deliver("t")
    await ticks()
    link.sink.down(OSError("gone"), fatal=True)
    link.deliver("t")
    await ticks()
    assert engine.counters.dropped_replies == 2


async def test_a_link_that_raises_from_reply_costs_one_answer(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture, clock: VirtualLoop
) -> None:
    """`Link.reply` must not raise; if one does, neither the slots nor the timer wheel may suffer."""

    class Broken(FakeLink):
        is_broken = True

        def reply(self, to: object, body: bytes) -> bool:
            if self.is_broken:
                raise OSError("broken pipe")
            return super().reply(to, body)

    link = Broken()
    engine = await open_engine(link, max_concurrent=1, handler_timeout=5)
    await engine.subscribe([1], lambda each: echo(each) if each.data else wait_for_ever(each))
    link.deliver("returns", b"data")
    await ticks()
    for type_ in ("hangs", "expires", "also expires"):
        link.deliver(type_, ttl_ms=1000)
    await asyncio.sleep(6)
    assert engine.counters.dropped_replies == 4
    link.is_broken = False
    link.deliver("after", b"data")
    await ticks()
    assert link.replies == [("after", b"data")]
    assert "Task exception was never retrieved" not in caplog.text


# Notifies.


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (raising(ValueError("bad")), "HandlerError: ValueError: bad"),
        (returning("text"), "HandlerError"),
        (returning(bytes(99)), "PayloadTooLargeError"),
    ],
)
async def test_a_failed_notify_is_counted_and_logged_and_never_answered(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture, handler: Any, name: str
) -> None:
    engine = await open_engine(max_payload_bytes=64)
    await engine.subscribe([1], handler)
    linked(engine).deliver("t", b"secret payload", oneway=True, headers={"authorization": "secret header"})
    await ticks()
    assert linked(engine).replies == []
    assert engine.counters.notify_failures == 1
    for record in caplog.records:
        assert record.levelno == logging.WARNING
        assert "shard 1, type 't'" in record.getMessage()
    assert name in caplog.messages[-1]
    assert "secret" not in caplog.text


async def test_a_notify_that_succeeds_is_not_answered(engine: Engine) -> None:
    await engine.subscribe([1], echo)
    linked(engine).deliver("t", b"data", oneway=True)
    await ticks()
    assert linked(engine).replies == []
    assert engine.counters.notify_failures == 0


async def test_a_notify_that_the_handler_refuses_is_counted(engine: Engine) -> None:
    async def handler(_: Envelope) -> bytes:
        assert current() is not None
        raise refuse(UnknownMessageError("t", ""))

    await engine.subscribe([1], handler)
    linked(engine).deliver("t", oneway=True)
    await ticks()
    assert linked(engine).replies == []
    assert (engine.counters.notify_failures, engine.counters.refused.total()) == (1, 1)


async def test_an_unknown_type_of_a_notify_does_not_reach_the_log(
    engine: Engine, link: FakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse_it(envelope: Envelope) -> bytes:
        raise refuse(UnknownMessageError(envelope.type, "Get, Put"))

    await engine.subscribe([1], refuse_it)
    link.deliver("PLANTED", oneway=True)
    await ticks()
    assert "a notify failed (a type without a handler): UnknownMessageError: known: Get, Put" in caplog.text
    assert "PLANTED" not in caplog.text
