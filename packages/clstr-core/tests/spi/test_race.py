"""`clstr.spi._links.race`: the first attempt that succeeds wins, and nothing is left of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from clstr.spi import race
from spi.virtual_time import VirtualLoop


class Attempts:
    """Attempts that take a time, and what became of them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.discarded: list[str] = []

    def new(
        self, name: str, seconds: float, error: BaseException | None = None
    ) -> Callable[[], Coroutine[Any, Any, str]]:
        async def attempt() -> str:
            self.log.append(f"{name} starts at {asyncio.get_running_loop().time() - 1000:g}")
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                self.log.append(f"{name} is cancelled")
                raise
            if error is not None:
                raise error
            return name

        return attempt


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


async def test_the_next_starts_after_the_delay_and_the_first_that_succeeds_wins(
    clock: VirtualLoop, attempts: Attempts
) -> None:
    ways = [attempts.new("mute", 60), attempts.new("slow", 5), attempts.new("quick", 1)]
    assert await race(ways, delay=2, discard=attempts.discarded.append) == "quick"
    assert attempts.log[:3] == ["mute starts at 0", "slow starts at 2", "quick starts at 4"]
    assert sorted(attempts.log[3:]) == ["mute is cancelled", "slow is cancelled"]
    assert attempts.discarded == []


async def test_a_slow_one_goes_on_while_others_are_tried(clock: VirtualLoop, attempts: Attempts) -> None:
    ways = [attempts.new("slow", 5), attempts.new("mute", 60)]
    assert await race(ways, delay=2, discard=attempts.discarded.append) == "slow"


async def test_the_next_starts_at_once_when_one_fails(clock: VirtualLoop, attempts: Attempts) -> None:
    ways = [attempts.new("dead", 0, ConnectionRefusedError()), attempts.new("alive", 0)]
    assert await race(ways, delay=60, discard=attempts.discarded.append) == "alive"
    assert clock.time() == pytest.approx(1000)


async def test_if_all_fail_their_errors_are_raised_in_order(clock: VirtualLoop, attempts: Attempts) -> None:
    errors = [ConnectionRefusedError("1"), asyncio.CancelledError(), OSError("3")]
    ways = [attempts.new(str(n), 1, error) for n, error in enumerate(errors)]
    with pytest.raises(ExceptionGroup) as caught:
        await race(ways, delay=5, discard=attempts.discarded.append)
    assert [type(each) for each in caught.value.exceptions] == [ConnectionRefusedError, ConnectionAbortedError, OSError]


async def test_of_two_that_succeed_at_one_moment_one_is_discarded(clock: VirtualLoop, attempts: Attempts) -> None:
    won = await race([attempts.new("a", 3), attempts.new("b", 2)], delay=1, discard=attempts.discarded.append)
    assert sorted([won, *attempts.discarded]) == ["a", "b"]


async def test_one_that_fails_at_the_moment_in_which_another_wins_is_forgotten(
    clock: VirtualLoop, attempts: Attempts
) -> None:
    ways = [attempts.new("a", 3, OSError()), attempts.new("b", 2), attempts.new("c", 1, OSError())]
    assert await race(ways, delay=1, discard=attempts.discarded.append) == "b"
    assert attempts.discarded == []


async def test_one_that_succeeds_although_it_was_cancelled_is_discarded(clock: VirtualLoop, attempts: Attempts) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "stubborn"
        return ""

    assert await race([stubborn, attempts.new("b", 0)], delay=1, discard=attempts.discarded.append) == "b"
    assert attempts.discarded == ["stubborn"]


async def test_cancelling_the_race_cancels_the_attempts(clock: VirtualLoop, attempts: Attempts) -> None:
    racing = asyncio.ensure_future(race([attempts.new("a", 60)], delay=1, discard=attempts.discarded.append))
    await asyncio.sleep(1)
    racing.cancel()
    await asyncio.wait((racing,))
    assert attempts.log[-1] == "a is cancelled"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_is_no_exception_but_an_order_to_stop_is_not_collected(clock: VirtualLoop) -> None:
    class Stop(BaseException):
        pass

    async def stop() -> str:
        raise Stop

    with pytest.raises(Stop):
        await race([stop], delay=1, discard=print)


async def test_a_race_without_attempts_is_a_mistake(clock: VirtualLoop) -> None:
    with pytest.raises(ValueError, match="at least one"):
        await race([], delay=1, discard=print)
