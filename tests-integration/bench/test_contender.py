"""Loads are what they say, and so are their timings."""

from __future__ import annotations

import asyncio
from array import array

import pytest

from bench.contender import Load, Timing, at_rate, closed_loop


class Asked:
    """Answers in the next tick, and knows what it was asked."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, number: int) -> bytes:
        self.numbers.append(number)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        return b""


def test_a_timing_sums_up_what_each_request_took() -> None:
    timing = Timing.of(array("d", [0.01 * number for number in range(100, 0, -1)]), 2.0)
    assert timing == Timing(requests=100, seconds=2.0, p50=0.51, p99=1.0)


def test_a_payload_is_text_of_the_size_that_was_asked_for() -> None:
    assert Load(payload_bytes=3).payload == b"xxx"


async def test_a_closed_loop_has_as_many_requests_in_flight_as_callers() -> None:
    asked = Asked()
    timing = await closed_loop(asked, Load(callers=7, keys=3, seconds=0.2))
    assert asked.most_at_once == 7
    assert timing.requests == len(asked.numbers)
    assert set(asked.numbers) == {0, 1, 2}


async def test_a_closed_loop_goes_on_with_the_next_key_in_the_next_round() -> None:
    asked = Asked()
    load = Load(callers=1, keys=1_000_000, seconds=0.001)
    await closed_loop(asked, load)
    await closed_loop(asked, load)
    assert len(set(asked.numbers)) == len(asked.numbers)


async def test_a_rate_is_kept_however_slow_the_answers_are() -> None:
    answer = asyncio.Event()
    begun: list[int] = []

    async def ask(number: int) -> bytes:
        begun.append(number)
        if len(begun) == 50:
            answer.set()
        await answer.wait()
        return b""

    async with asyncio.timeout(10):
        timing = await at_rate(ask, Load(rate=1000, seconds=0.05))
    assert timing.requests == len(begun) == 50


async def test_an_answer_that_fails_fails_the_round() -> None:
    async def ask(_: int) -> bytes:
        raise LookupError

    with pytest.raises(ExceptionGroup):
        await closed_loop(ask, Load(callers=2, seconds=0.01))
