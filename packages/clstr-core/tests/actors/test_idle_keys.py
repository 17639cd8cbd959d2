"""`clstr._actors.idle_keys`: one timer, and the order of the last use."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import clstr_testing
from clstr._actors.idle_keys import IdleKeys


def in_virtual_time(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(work())


def timers() -> list[asyncio.TimerHandle]:
    scheduled: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled")  # noqa: B009
    return [timer for timer in scheduled if not timer.cancelled()]


def test_the_oldest_is_the_one_that_was_added_first() -> None:
    async def run() -> None:
        idle = IdleKeys(None, lambda key: None)
        assert (idle.oldest(), len(idle)) == (None, 0)
        for key in "abc":
            idle.add(key)
        idle.remove("a")
        idle.add("a")
        idle.remove("nobody")
        assert (list(idle), idle.oldest(), "b" in idle, "x" in idle) == (["b", "c", "a"], "b", True, False)
        assert timers() == []

    in_virtual_time(run)


def test_each_is_given_up_in_its_time_with_one_timer() -> None:
    given_up: list[tuple[str, float]] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()

        def give_up(key: str) -> None:
            given_up.append((key, round(loop.time() - start, 1)))
            idle.remove(key)

        idle = IdleKeys(10, give_up)
        for key in "abc":
            idle.add(key)
            await asyncio.sleep(2)
        idle.remove("b")
        assert len(timers()) == 1
        await asyncio.sleep(100)
        assert timers() == []

    in_virtual_time(run)
    assert given_up == [("a", 10.0), ("c", 14.0)]


def test_without_idle_keys_there_is_no_timer() -> None:
    async def run() -> None:
        idle = IdleKeys(10, lambda key: None)
        idle.add("a")
        idle.remove("a")
        assert timers() == []

    in_virtual_time(run)


class Counted(OrderedDict[str, float]):
    """Counts how often one of its keys or times is looked at."""

    visits = 0

    def __iter__(self) -> Iterator[str]:
        for key in super().__iter__():
            self.visits += 1
            yield key

    def __getitem__(self, key: str) -> float:
        self.visits += 1
        return super().__getitem__(key)

    def items(self) -> Any:  # Any: a view, for what reads it here
        return ((key, self[key]) for key in self)

    def values(self) -> Any:  # Any: as above
        return (self[key] for key in self)


def test_a_timer_looks_at_the_keys_that_are_due_and_at_one_more() -> None:
    """With 60,000 idle keys, a look at each of them would hold up the loop for tens of milliseconds."""

    async def run() -> None:
        given_up: list[str] = []
        idle = IdleKeys(10, given_up.append)
        counted = idle._since = Counted()
        for key in "abc":
            idle.add(key)
        await asyncio.sleep(5)
        for number in range(1000):
            idle.add(str(number))
        counted.visits = 0
        await asyncio.sleep(6)
        assert (given_up, len(idle)) == (["a", "b", "c"], 1000)
        assert counted.visits < 20

    in_virtual_time(run)


def test_the_oldest_key_is_found_without_a_step_over_those_that_were_removed() -> None:
    """A dict keeps a place for each removed key until it grows, and steps over them to find its first."""
    idle = IdleKeys(None, lambda key: None)
    assert isinstance(idle._since, OrderedDict)
