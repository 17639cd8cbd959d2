"""Answers that cannot leave keep back the handlers whose answers would wait behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from clstr._messages.envelope import Envelope
from clstr.errors import EnvelopeExpiredError, OverloadedError
from clstr.spi import _answer_budget
from clstr.spi._answer_budget import OVERHEAD_BYTES, AnswerBudget
from clstr.spi._engine import Engine
from spi.fakes import FakeLink, OpenEngine, linked, ticks
from spi.virtual_time import VirtualLoop

SIZE = 1000 - OVERHEAD_BYTES


@pytest.fixture(autouse=True)
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four answers of `SIZE` use up a destination's share, ten all of it."""
    monkeypatch.setattr(_answer_budget, "MAX_DESTINATION_BYTES", 4000)
    monkeypatch.setattr(_answer_budget, "MAX_TOTAL_BYTES", 10_000)


class PickyLink(FakeLink):
    """Takes no answers to some destinations; an address begins with its destination."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck: set[str] = set()

    def destination(self, to: object) -> Hashable:
        return str(to).partition("-")[0]

    def reply(self, to: object, body: bytes) -> bool:
        return self.destination(to) not in self.stuck and super().reply(to, body)


class Counting:
    """A handler that answers with `SIZE` bytes on the wire, about, and notes what ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def __call__(self, envelope: Envelope) -> bytes:
        self.ran.append(envelope.type)
        return bytes(SIZE)


@pytest.fixture
async def picky() -> PickyLink:
    return PickyLink()


@pytest.fixture
async def handler() -> Counting:
    return Counting()


@pytest.fixture
async def engine(open_engine: OpenEngine, picky: PickyLink, handler: Counting) -> Engine:
    engine = await open_engine(picky, max_queue=6, drain_timeout=1)
    await engine.subscribe([1], handler)
    return engine


async def deliver(link: FakeLink, destination: str, *numbers: int, depth: int = 0, ttl_ms: int = 0) -> None:
    for number in numbers:
        link.deliver(f"{destination}-{number}", depth=depth, ttl_ms=ttl_ms)
        await ticks(5)  # those that run may still answer: let each end


async def test_no_handler_starts_while_its_sender_takes_no_answers(
    engine: Engine, picky: PickyLink, handler: Counting
) -> None:
    picky.stuck = {"a"}
    await deliver(picky, "a", *range(7))
    assert handler.ran == [f"a-{number}" for number in range(4)]
    assert engine.dispatcher.waiting == 3
    picky.stuck.clear()
    picky.sink.writable()
    await ticks()
    assert [to for to, _ in picky.replies] == [f"a-{number}" for number in range(7)]
    assert engine.counters.dropped_replies == 0


async def test_messages_of_others_pass(engine: Engine, picky: PickyLink, handler: Counting) -> None:
    picky.stuck = {"a"}
    await deliver(picky, "a", *range(6))
    await deliver(picky, "b", 0)
    await deliver(picky, "c", 0, depth=1)
    assert [to for to, _ in picky.replies] == ["b-0", "c-0"]


async def test_messages_that_waited_for_a_slot_when_their_sender_stopped_taking_answers_let_others_pass(
    open_engine: OpenEngine, picky: PickyLink, handler: Counting
) -> None:
    engine = await open_engine(picky, max_concurrent=1, drain_timeout=1)
    gate = asyncio.Event()

    async def gated(envelope: Envelope) -> bytes:
        await gate.wait()
        return await handler(envelope)

    await engine.subscribe([1], gated)
    picky.stuck = {"a"}
    await deliver(picky, "a", *range(6))
    await deliver(picky, "b", 0)
    gate.set()
    await ticks(60)
    assert handler.ran == ["a-0", "a-1", "a-2", "a-3", "b-0"]


async def test_notifies_pass_because_nothing_answers_them(engine: Engine, picky: PickyLink, handler: Counting) -> None:
    picky.stuck = {"a"}
    await deliver(picky, "a", *range(5))
    picky.deliver("a-5", oneway=True)
    await ticks()
    assert handler.ran[-1] == "a-5"


async def test_what_was_set_aside_counts_as_waiting_and_the_rest_is_refused_before_it_runs(
    engine: Engine, picky: PickyLink, handler: Counting
) -> None:
    picky.stuck = {"a"}
    await deliver(picky, "a", *range(4 + 6))
    picky.stuck.clear()  # but nothing says so yet
    await deliver(picky, "a", 10)
    assert engine.dispatcher.waiting == 6
    assert isinstance(picky.answer_to("a-10"), OverloadedError)
    assert len(handler.ran) == 4


async def test_what_was_set_aside_expires_before_it_runs(
    engine: Engine, picky: PickyLink, handler: Counting, clock: VirtualLoop
) -> None:
    picky.stuck = {"a"}
    await deliver(picky, "a", *range(4))
    await deliver(picky, "a", 4, ttl_ms=1000)
    await asyncio.sleep(1.5)
    picky.stuck.clear()
    picky.sink.writable()
    assert isinstance(picky.answer_to("a-4"), EnvelopeExpiredError)
    assert len(handler.ran) == 4


async def test_no_handler_starts_while_the_whole_budget_is_used_up(
    engine: Engine, picky: PickyLink, handler: Counting
) -> None:
    picky.stuck = {"a", "b", "c"}
    for destination in "abc":
        await deliver(picky, destination, *range(4))
    assert len(handler.ran) == 10
    await deliver(picky, "d", 0)
    assert "d-0" not in handler.ran
    picky.stuck = set()
    picky.sink.writable()
    await ticks()
    assert len(picky.replies) == 13


async def test_a_budget_that_was_used_up_has_room_again_at_half() -> None:
    """Otherwise each answer that leaves would start one handler."""
    calls: list[str] = []
    budget = AnswerBudget(lambda: calls.append("room"))
    for _ in range(4):
        budget.add("a", SIZE)
    budget.remove("a", SIZE)
    assert (budget.blocked, calls) == ({"a"}, [])
    budget.remove("a", SIZE)
    assert (budget.blocked, calls) == (set(), ["room"])
    for destination in "bcdef":
        budget.add(destination, SIZE)
        budget.add(destination, SIZE)
    assert budget.is_full
    for destination in "abcdef":
        budget.remove(destination, SIZE)
    assert (budget.is_full, calls) == (True, ["room"])
    budget.remove("a", SIZE)
    assert (budget.is_full, calls) == (False, ["room", "room"])


async def test_settling_waits_until_no_answer_waits(clock: VirtualLoop) -> None:
    budget = AnswerBudget(lambda: None)
    assert await budget.settle(clock.time())
    budget.add("a", SIZE)
    assert not await budget.settle(clock.time() + 1)
    settling = asyncio.ensure_future(budget.settle(clock.time() + 1))
    await ticks()
    budget.remove("a", SIZE)
    assert await settling


async def test_draining_refuses_what_was_set_aside(engine: Engine, picky: PickyLink) -> None:
    picky.stuck = {"a"}
    await deliver(picky, "a", *range(6))
    report = await engine.aclose()
    assert report.refused == 2
    assert linked(engine).replies == []
