"""One at a time, first come, first served; who gives up keeps nobody."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from clstr._actors.turns import Turns
from clstr._context import Current, set_current
from clstr._messages.envelope import Envelope


class Queue:
    """Turns, who has had one, and who is to let go."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.order: list[str] = []
        self.let_go: dict[str, asyncio.Event] = {}

    async def use(self, name: str) -> None:
        await self.turns.take()
        try:
            self.order.append(name)
            await self.let_go[name].wait()
        finally:
            self.turns.end()

    async def start(self, *names: str) -> list[asyncio.Task[None]]:
        self.let_go.update({name: asyncio.Event() for name in names})
        tasks = [asyncio.create_task(self.use(name)) for name in names]
        await ticks()
        return tasks

    async def finish(self, *names: str) -> None:
        for name in names:
            self.let_go[name].set()
            await ticks()


class Parking(Current):
    """A message that records when it lends its slot."""

    envelope: Envelope = Envelope(shard=0, type="t")
    slots: list[str] = msgspec.field(default_factory=list)

    def time_left(self) -> float:
        return 1.0

    def lend(self) -> None:
        self.slots.append("lend")

    def reclaim(self) -> None:
        self.slots.append("reclaim")


async def ticks(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def queue() -> Queue:
    return Queue()


def test_a_free_turn_is_taken_at_once_and_only_once() -> None:
    turns = Turns()
    assert turns.try_take()
    assert not turns.try_take()
    assert turns.waiting == 0
    turns.end()
    assert turns.try_take()


async def test_turns_are_given_in_order_of_arrival(queue: Queue) -> None:
    await queue.start("a", "b", "c")
    assert (queue.order, queue.turns.waiting) == (["a"], 2)
    await queue.finish("c", "b")
    assert queue.order == ["a"]
    await queue.finish("a")
    assert (queue.order, queue.turns.waiting) == (["a", "b", "c"], 0)
    assert queue.turns.try_take()


async def test_nobody_comes_between_the_end_of_a_turn_and_the_next_ones_wake_up(queue: Queue) -> None:
    assert queue.turns.try_take()
    await queue.start("a")
    queue.turns.end()
    assert not queue.turns.try_take()
    await queue.finish("a")
    assert queue.turns.try_take()


async def test_who_is_cancelled_while_it_waits_is_passed_over(queue: Queue) -> None:
    _, b, _ = await queue.start("a", "b", "c")
    b.cancel()
    await ticks()
    assert (b.cancelled(), queue.turns.waiting) == (True, 1)
    await queue.finish("a", "c")
    assert queue.order == ["a", "c"]
    assert queue.turns.try_take()


async def test_the_last_to_wait_may_give_up(queue: Queue) -> None:
    _, b = await queue.start("a", "b")
    b.cancel()
    await ticks()
    assert queue.turns.waiting == 0
    await queue.finish("a")
    assert queue.turns.try_take()


async def test_a_turn_given_in_the_tick_of_the_cancellation_goes_on_to_the_next(queue: Queue) -> None:
    assert queue.turns.try_take()
    a, _ = await queue.start("a", "b")
    queue.turns.end()
    a.cancel()
    await ticks()
    assert (a.cancelled(), queue.order) == (True, ["b"])
    await queue.finish("b")
    assert queue.turns.try_take()


async def test_a_turn_given_in_the_tick_of_the_cancellation_is_free_if_nobody_waits(queue: Queue) -> None:
    assert queue.turns.try_take()
    [a] = await queue.start("a")
    queue.turns.end()
    a.cancel()
    await ticks()
    assert a.cancelled()
    assert queue.turns.try_take()


@pytest.mark.parametrize("others", [[], ["b"], ["b", "c"], ["b", "c", "d"]], ids=len)
async def test_a_turn_that_ends_after_the_cancellation_passes_over_who_was_cancelled(
    queue: Queue, others: list[str]
) -> None:
    """The cancelled one has not run yet when the turn ends: it is in the queue still."""
    assert queue.turns.try_take()
    [a, *_] = await queue.start("a", *others)
    a.cancel()
    queue.turns.end()
    await ticks()
    assert a.cancelled()
    await queue.finish(*others)
    assert queue.order == others
    assert queue.turns.try_take()


async def test_who_waits_parks_its_message_and_who_need_not_wait_does_not() -> None:
    turns, message = Turns(), Parking()
    set_current(message)
    await turns.take()
    assert message.slots == []
    waiting = asyncio.create_task(turns.take())
    await ticks()
    assert message.slots == ["lend"]
    turns.end()
    await waiting
    assert message.slots == ["lend", "reclaim"]


async def test_who_gives_up_unparks_its_message() -> None:
    turns, message = Turns(), Parking()
    set_current(message)
    await turns.take()
    waiting = asyncio.create_task(turns.take())
    await ticks()
    waiting.cancel()
    await ticks()
    assert waiting.cancelled()
    assert message.slots == ["lend", "reclaim"]


async def test_a_place_is_taken_when_it_is_claimed_and_one_may_claim_the_first() -> None:
    turns = Turns()
    assert await turns.wait(turns.claim())
    second, first = turns.claim(), turns.claim(first=True)
    assert turns.waiting == 2
    turns.end()
    assert (first.done(), second.done()) == (True, False)
    assert await turns.wait(first)
    turns.end()
    assert await turns.wait(second)
    turns.end()
    assert turns.try_take()


async def test_who_was_given_the_turn_before_it_waits_does_not_park() -> None:
    turns, message = Turns(), Parking()
    set_current(message)
    place = turns.claim()
    assert turns.is_taken
    assert await turns.wait(place)
    assert message.slots == []


@pytest.mark.parametrize("is_away", [False, True])
async def test_who_lets_one_go_ahead_is_told_whether_it_has_the_turn_again(is_away: bool) -> None:
    turns = Turns()
    assert turns.try_take()
    other = asyncio.ensure_future(turns.take())
    await asyncio.sleep(0)
    step = asyncio.ensure_future(turns.let_one())
    await ticks()
    assert (other.done(), step.done()) == (True, False)
    if is_away:
        turns.send_away()
    else:
        turns.end()
    assert await step is not is_away
    assert turns.is_taken


async def test_who_waits_can_be_sent_away_and_whose_turn_it_is_keeps_it() -> None:
    turns = Turns()
    assert turns.try_take()
    waiting = [asyncio.ensure_future(turns.take()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    turns.send_away()
    assert turns.waiting == 0
    assert await asyncio.gather(*waiting[1:]) == [False, False]
    assert turns.is_taken
    turns.end()
    turns.send_away()
    assert turns.try_take()


async def test_who_is_sent_away_in_the_tick_of_its_cancellation_has_no_turn_to_end() -> None:
    turns = Turns()
    assert turns.try_take()
    waiting = asyncio.ensure_future(turns.take())
    await asyncio.sleep(0)
    turns.send_away()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert turns.is_taken
